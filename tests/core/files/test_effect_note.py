"""The note of effects: small, exact enough, and nothing to be trusted."""

import json

import pytest
import torch

from lora2_core.files.effect_note import EFFECT_NOTE, effect_note, read_effect_note


def read(text):
    return read_effect_note({EFFECT_NOTE: text})


def test_what_is_written_is_read():
    effects = {"a": (3.0, 1e-3, 2.5e-9), "b": (0.7,), "c": (), "d": (1e-30, 0.0)}
    found = read(effect_note(effects))
    assert list(found) == ["a", "b", "d"]
    for name, own in found.items():
        expected = torch.tensor(effects[name], dtype=torch.float64)
        far = expected < 3.0 * 2.0**-63
        assert torch.allclose(own[~far], expected[~far], rtol=5e-4)
        assert (own[far] == 0).all()


@pytest.mark.parametrize("effects", [{}, {"a": ()}, {"a": (0.0, 0.0)}])
def test_nothing_is_written_as_nothing(effects):
    assert all((own == 0).all() for own in read(effect_note(effects)).values())


def test_all_of_sdxl_at_rank_64_stays_small():
    values = torch.rand(64, dtype=torch.float64).sort(descending=True).values.tolist()
    text = effect_note({f"lora_unet_{'layer_' * 8}{index}": values for index in range(560)})
    assert len(text) < 150_000
    assert len(read(text)) == 560


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"largest": "nan"},
        {"largest": -1},
        {"largest": None},
        {"components": ["a"]},
        {"components": {"a": "AAA"}},
        {"components": {"a": "AAAA"}},
        {"components": {"a": 3}},
        {"components": {"a": "/wAAAA=="}},
        {"components": {"a": "é"}},
    ],
)
def test_what_is_malformed_is_no_note(change):
    good = json.loads(effect_note({"a": (2.0, 1.0)}))
    assert read(json.dumps(good | change)) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", "[" * 100_000, "x" * 5_000_000])
def test_what_is_no_note_is_none(text):
    assert read(text) == {}
    assert read_effect_note({}) == {}
