"""The options of `train` that are off by default, as a user calls them."""

import argparse
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from stopping import stopped_at

from lora2_core.__main__ import main
from lora2_core.commands import knobs, lesson
from lora2_core.config import TrainConfig
from lora2_core.demo_model.backbone import DemoBackbone
from lora2_core.runs.run_folder import RunFolder

COMMON = ["--model", "demo", "--prompt", "a boot", "--preset", "small", "--dtype", "fp32"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        pixels = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "1.txt").write_text("a sks boot on the beach")
    return folder


@pytest.fixture
def told(monkeypatch):
    """What batches was given in a run."""
    found = {}
    real = lesson.batches

    def noting(examples, **settings):
        found.update(settings, own=examples)
        return real(examples, **settings)

    monkeypatch.setattr(lesson, "batches", noting)
    return found


def train(images, out, *more):
    return main(["train", *COMMON, "--images", str(images), "--out", str(out), *more])


def parsed(*given):
    parser = argparse.ArgumentParser()
    knobs.add_arguments(parser)
    return knobs.chosen(parser.parse_args(given))


def test_nothing_is_on_unless_asked_for():
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    found = parsed()
    assert len(found) == 22
    assert found == {name: defaults[name] for name in found}


def test_every_option_reaches_the_settings():
    given = {
        "optimizer": "adafactor", "lr_scheduler": "polynomial", "lr_warmup_steps": 3,
        "lr_cycles": 4, "lr_power": 0.5, "min_snr_gamma": 5.0, "noise_offset": 0.05,
        "timestep_bias": "range", "timestep_bias_multiplier": 3.0, "timestep_bias_portion": 0.5,
        "timestep_bias_begin": 7, "timestep_bias_end": 77, "caption_dropout": 0.1, "repeats": 5,
        "trigger_word": "sks", "ema_decay": 0.9, "effect_share": 0.9,
        "start": "even", "start_share": 0.5, "importance": "printed",
    }  # fmt: skip
    words = [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    found = parsed("--horizontal-flip", "--text-encoders", *words)
    assert found == given | {"horizontal_flip": True, "text_encoders": True}
    assert not any(found[name] == getattr(TrainConfig(), name) for name in found)


def test_pictures_captions_and_the_empty_caption_of_a_set(images, told, tmp_path):
    out = tmp_path / "x.safetensors"
    more = ["--trigger-word", "sks", "--horizontal-flip", "--caption-dropout", "0.5"]
    assert train(images, out, "--steps", "2", "--repeats", "3", *more) == 0
    assert (told["repeats"], told["caption_dropout"]) == (3, 0.5)
    first, second, mirrored, _ = told["own"]
    backbone = DemoBackbone()
    with Image.open(images / "0.png") as file:
        picture = file.convert("RGB")
    wanted = backbone.example(picture, "sks, a boot")
    flipped = backbone.example(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "sks, a boot")
    for found, whole in ((first, wanted), (mirrored, flipped)):
        assert torch.equal(found.latent, whole.latent)
        for name, tensor in whole.conditioning.items():
            assert torch.equal(found.conditioning[name], tensor)
    assert not torch.equal(first.latent, mirrored.latent)
    kept = backbone.conditioning((128, 128), "a sks boot on the beach")
    assert torch.equal(second.conditioning["context"], kept["context"])
    empty = backbone.conditioning((128, 128), "")
    assert torch.equal(second.empty["context"], empty["context"])
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_num_train_images"] == "2"
    assert metadata["modelspec.trigger_phrase"] == "sks"


def test_a_stopped_run_goes_on_with_all_of_it_and_refuses_other_settings(images, tmp_path, capsys):
    more = [
        "--steps", "6", "--precision", "fp32", "--lr-scheduler", "cosine", "--lr-warmup-steps", "2",
        "--min-snr-gamma", "5", "--noise-offset", "0.1", "--timestep-bias", "later",
        "--caption-dropout", "0.3", "--ema-decay", "0.9", "--horizontal-flip",
    ]  # fmt: skip
    whole, out = tmp_path / "whole.safetensors", tmp_path / "x.safetensors"
    assert train(images, whole, *more) == 0

    with stopped_at(3):
        assert train(images, out, *more) == 2
    assert RunFolder(tmp_path / "x_run").newest().step == 3
    capsys.readouterr()
    assert train(images, out, *more[:-1], "--repeats", "2", "--resume") == 2
    said = capsys.readouterr().err
    assert "horizontal_flip was True and is False" in said and "repeats was 1 and is 2" in said
    assert train(images, out, *more, "--resume") == 0
    one, other = load_file(whole), load_file(out)
    assert all(torch.equal(one[name], other[name]) for name in one)
