"""The rank report as a picture."""

import numpy as np
import torch

from lora2_core.files.adapter_file import LoraState
from lora2_core.ranks import rank_picture
from lora2_core.ranks.rank_report import report

STEM = "lora_unet_input_blocks_4_1_transformer_blocks_"


def adapter(ranks):
    state = LoraState()
    for name, rank in ranks.items():
        state[f"{name}.lora_down.weight"] = torch.ones(rank, 8)
        state[f"{name}.lora_up.weight"] = torch.ones(8, rank)
    return state


def holds(image, colour):
    return bool((np.asarray(image) == colour).all(-1).any())


def test_each_rank_has_its_colour_in_the_picture():
    ranks = {f"{STEM}0_attn1_to_q": 1, f"{STEM}0_attn2_to_k": 4, f"{STEM}1_attn1_to_q": 16}
    image = rank_picture.draw(report(adapter(ranks)))
    for rank in (1, 4, 16):
        assert holds(image, rank_picture.colour(rank, 16))
    assert not holds(image, rank_picture.colour(2, 16))


def test_a_picture_grows_with_rows_and_columns():
    small = rank_picture.draw(report(adapter({f"{STEM}0_attn1_to_q": 2})))
    rows = {f"{STEM}{i}_attn1_to_q": 2 for i in range(9)}
    columns = {f"{STEM}0_attn{a}_to_{p}": 2 for a in (1, 2) for p in ("q", "k", "v", "out_0")}
    assert rank_picture.draw(report(adapter(rows))).height > small.height
    assert rank_picture.draw(report(adapter(columns))).width > small.width


def test_strangers_names_are_cut():
    image = rank_picture.draw(report(adapter({"x" * 5000: 1, "<script>": 3})))
    assert image.width < 1000


def test_names_that_break_lines_or_turn_them():
    image = rank_picture.draw(report(adapter({"a\nb\u202e_1_\u0000c\td": 1, "\r\n": 3})))
    assert image.width < 1000


def test_five_thousand_rows_are_a_picture_of_bounded_size():
    image = rank_picture.draw(report(adapter({f"x{i}": 1 + i % 7 for i in range(5000)})))
    assert image.height <= 12_000 and image.width < 1000
    assert holds(image, rank_picture.colour(7, 7))


def test_several_pictures_on_one_scale():
    small = report(adapter({f"{STEM}0_attn1_to_q": 4}))
    assert holds(rank_picture.draw(small, 64), rank_picture.colour(4, 64))
    assert holds(rank_picture.draw(small), rank_picture.colour(4, 4))


def test_rank_0_is_an_outline_and_no_colour():
    found = report(adapter({f"{STEM}0_attn1_to_q": 1, f"{STEM}1_attn1_to_q": 4}))
    drawn = rank_picture.draw(found)
    for part in found["components"]:
        if part["rank"] == 1:
            part["rank"] = 0
    image = rank_picture.draw(found)
    assert holds(drawn, rank_picture.colour(1, 4)) and not holds(image, rank_picture.colour(1, 4))
    assert holds(image, rank_picture.colour(4, 4))
    rank_picture.draw(found | {"components": found["components"][:1]})  # and nothing else


def test_the_scale_is_logarithmic_and_even():
    shades = [sum(rank_picture.colour(2**i, 512)) for i in range(10)]
    assert shades == sorted(shades) and len(set(shades)) == 10
    assert rank_picture.colour(1, 1) == rank_picture.colour(1, 512)
