"""The movie of a run: bounded, complete at both ends, and true to the steps."""

import base64
import json
import struct
from itertools import pairwise

import pytest
import torch
from unet_shapes import SDXL, unet_shapes

from lora2_core.config import TrainConfig
from lora2_core.files.writing import write
from lora2_core.runs.movie import Movie
from lora2_core.runs.packing import pack_result
from lora2_core.runs.shares import coded
from lora2_core.training.result import StepInfo, TrainResult

ATTENTION = tuple(
    (key.removesuffix(".weight"), shape)
    for key, shape in unet_shapes(SDXL).items()
    if ".attn" in key and ".to_" in key and key.endswith("weight")
)


def info(step, steps, components=ATTENTION, loss=None, effects=None):
    ranks = tuple(1 + (step + i) % 500 for i in range(len(components)))
    loss = float(step) if loss is None else loss
    return StepInfo(
        step, steps, loss, None, ranks, 1000 * step, 2.0 * step, components, effects=effects
    )


def falling(components=ATTENTION):
    """Shares of 1/2, 1/4, …, the smallest of which are beyond what a frame can say."""
    return [0.5**i for i in range(1, len(components) + 1)]


def recorded(steps, components=ATTENTION, effects=None):
    movie = Movie()
    for step in range(1, steps + 1):
        movie.step(info(step, steps, components, effects=effects))
    return movie


def ranks_of(frame):
    data = base64.b64decode(frame["ranks"])
    return struct.unpack(f"<{len(data) // 2}H", data)


def shares_of(text):
    return tuple(2 ** (-code / 8) if code < 255 else 0.0 for code in base64.b64decode(text))


@pytest.mark.parametrize("steps", [1, 7, 240, 241, 500, 1000, 3333])
def test_a_run_of_sdxl_stays_below_a_megabyte(steps):
    assert len(ATTENTION) == 560
    movie = recorded(steps, effects=falling)
    assert all(frame["effects"] for frame in movie.frames)
    assert len(json.dumps([movie.begin, movie.frames])) < 1_000_000
    at = [frame["step"] for frame in movie.frames]
    assert at == sorted(set(at)) and at[0] == 1 and at[-1] == steps
    assert len(at) <= 240
    gaps = [b - a for a, b in pairwise(at)]
    assert len(at) == steps or len(at) >= 120
    assert max(gaps, default=1) <= max(1, 2 * steps / 120)


def test_a_frame_holds_the_steps_ranks_and_the_mean_loss_between():
    movie = recorded(600)
    for before, frame in zip([None, *movie.frames], movie.frames, strict=False):
        expected = info(frame["step"], 600)
        assert ranks_of(frame) == expected.ranks
        assert frame["mean_rank"] == expected.mean_rank
        assert frame["megabytes"] == expected.megabytes
        assert frame["seconds_left"] == pytest.approx(2.0 * (600 - frame["step"]), abs=0.1)
        if before is not None:  # thinning drops frames, and with them their share of the mean
            assert before["step"] < frame["loss"] <= frame["step"]


def test_begin_places_every_component():
    movie = recorded(3)
    assert movie.begin["steps"] == 3
    assert movie.begin["columns"] == [
        "self q", "self k", "self v", "self out", "cross q", "cross k", "cross v", "cross out",
    ]  # fmt: skip
    names = [part["name"] for part in movie.begin["components"]]
    assert len(set(names)) == 560 and all(name.startswith("lora_unet_") for name in names)
    rows = {line["row"] for line in movie.begin["rows"]}
    assert {part["row"] for part in movie.begin["components"]} == rows and len(rows) == 70


def test_shares_come_back_but_for_four_per_cent():
    shares = [1.0, 0.5, 0.3, 1e-3, 1e-9, 1e-12, 0.0, float("nan"), float("inf"), -0.1]
    found = shares_of(coded(shares))
    assert found[:5] == pytest.approx(shares[:5], rel=0.045)
    assert found[5:] == (0.0,) * 5
    assert found[0] == 1 and found[1] == 0.5


def test_where_nothing_has_an_effect_nothing_is_known():
    assert coded([0.0, float("nan")]) == coded([]) == ""
    movie = recorded(2, effects=lambda: [0.0] * len(ATTENTION))
    assert all("effects" not in frame for frame in movie.frames)
    assert all("effects" not in frame for frame in recorded(2).frames)


def test_the_device_is_asked_no_more_than_it_must_be():
    asked = []

    def effects():
        asked.append(len(asked))
        return falling()

    movie = Movie()
    for step in range(1, 101):
        movie.step(info(step, 100, effects=effects), ask=step % 40 == 2)
    assert len(asked) == 3
    assert ["effects" in frame for frame in movie.frames] == [False] + [True] * 99
    assert shares_of(movie.frames[-1]["effects"])[:8] == tuple(falling()[:8])


def finished(ranks, effects=None, components=ATTENTION[:4]):
    generator = torch.Generator().manual_seed(0)
    factors = {
        name: (torch.randn(rank, shape[1], generator=generator), torch.ones(shape[0], rank))
        for (name, shape), rank in zip(components, ranks, strict=True)
        if rank
    }
    names = [name for name, _ in components]
    return TrainResult(
        factors,
        dict(zip(names, ((None, rank) for rank in ranks), strict=True)),
        [1.0] * 9,
        9,
        TrainConfig(steps=9),
        dict(components),
        dict(zip(names, effects, strict=True)) if effects else {},
    )


def test_the_last_frame_of_a_finished_run_is_its_file(tmp_path):
    movie = recorded(9, ATTENTION[:4])
    before = movie.frames[-1]
    result = finished((3, 0, 1, 2), ((4.0, 1.0, 1.0), (), (1.0,), (1.0, 0.0)))
    frame = movie.finish(result)
    assert frame is movie.frames[-1] and len(movie.frames) == 9
    assert ranks_of(frame) == (3, 0, 1, 2) and frame["mean_rank"] == 1.5
    assert frame["cut_from"] == before["mean_rank"]
    assert (frame["step"], frame["loss"]) == (9, before["loss"])
    assert shares_of(frame["effects"]) == pytest.approx((0.75, 0, 0.125, 0.125), rel=0.045)
    path = write(pack_result(result), tmp_path / "a.safetensors", precision="fp16")
    assert 0 <= 1e6 * frame["megabytes"] - path.stat().st_size <= 3000


def test_a_run_that_lost_nothing_says_so():
    movie = recorded(9, ATTENTION[:4])
    ranks = ranks_of(movie.frames[-1])
    frame = movie.finish(finished(ranks))
    assert ranks_of(frame) == ranks and "cut_from" not in frame and "effects" not in frame


def test_a_run_without_a_step_of_its_own_has_no_last_frame():
    assert Movie().finish(finished((1, 1, 1, 1))) is None
    assert recorded(8, ATTENTION[:4]).finish(finished((1, 1, 1, 1))) is None
