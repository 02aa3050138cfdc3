"""The movie of a run: bounded, complete at both ends, and true to the steps."""

import base64
import json
import struct
from itertools import pairwise

import pytest
from unet_shapes import SDXL, unet_shapes

from lora2_core.runs.movie import Movie
from lora2_core.training.result import StepInfo

ATTENTION = tuple(
    (key.removesuffix(".weight"), shape)
    for key, shape in unet_shapes(SDXL).items()
    if ".attn" in key and ".to_" in key and key.endswith("weight")
)


def info(step, steps, components=ATTENTION, loss=None):
    ranks = tuple(1 + (step + i) % 500 for i in range(len(components)))
    loss = float(step) if loss is None else loss
    return StepInfo(step, steps, loss, None, ranks, 1000 * step, 2.0 * step, components)


def recorded(steps, components=ATTENTION):
    movie = Movie()
    for step in range(1, steps + 1):
        movie.step(info(step, steps, components))
    return movie


def ranks_of(frame):
    data = base64.b64decode(frame["ranks"])
    return struct.unpack(f"<{len(data) // 2}H", data)


@pytest.mark.parametrize("steps", [1, 7, 240, 241, 500, 1000, 3333])
def test_a_run_of_sdxl_stays_below_a_megabyte(steps):
    assert len(ATTENTION) == 560
    movie = recorded(steps)
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
