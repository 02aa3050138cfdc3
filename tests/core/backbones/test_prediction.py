"""What a model predicts, and up to which noise: its own marks, and what is asked for instead."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers.schedulers import EulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pipeline import write_checkpoint, write_folder, write_tokenizer

from lora2_core.__main__ import main
from lora2_core.backbones.diffusers_unet import alphas
from lora2_core.backbones.drawing import Drawing
from lora2_core.backbones.pipeline import load_checkpoint, load_folder
from lora2_core.backbones.prediction import Asked
from lora2_core.errors import LoRA2Error
from lora2_core.files.header import read_header

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
V, ZERO = {"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model by its marks: keys of a checkpoint, or settings of a folder's scheduler."""
    here = tmp_path_factory.mktemp("models")
    words = write_tokenizer(here / "words")
    plain = load_file(write_checkpoint(here / "plain.safetensors"))
    folder = write_folder(here / "folder")

    def loaded(marks, **asked):
        if isinstance(marks, tuple):
            file = here / f"{'_'.join(marks) or 'plain'}.safetensors"
            save_file(plain | {mark: torch.zeros(1) for mark in marks}, file)
            return load_checkpoint(file, words, **CPU, asked=Asked(**asked))
        other = here / "_".join(["folder", *marks])
        if not other.exists():
            shutil.copytree(folder, other)
            file = other / "scheduler" / "scheduler_config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | marks))
        return load_folder(other, **CPU, asked=Asked(**asked))

    return loaded


def kind(backbone):
    """(predicts v, ends in noise alone)"""
    denoiser = backbone.denoiser
    return denoiser.predicts_v, float(denoiser.snr(torch.tensor([999]))) < 1e-6


def test_the_schedule_is_that_of_the_samplers_that_draw_with_it():
    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for zero in (False, True):
        expected = EulerDiscreteScheduler(**common, rescale_betas_zero_snr=zero).alphas_cumprod
        torch.testing.assert_close(alphas(zero), expected, rtol=1e-3, atol=1e-7)
    assert 0 < alphas(True)[-1] < 1e-7


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ((), (False, False)),
        (("v_pred",), (True, False)),
        (("v_pred", "ztsnr"), (True, True)),
        (("ztsnr",), (False, False)),  # as ComfyUI takes it
        ({}, (False, False)),
        (V, (True, False)),
        (V | ZERO, (True, True)),
    ],
)
def test_a_model_says_itself_what_it_predicts(models, marks, expected):
    assert kind(models(marks)) == expected


@pytest.mark.parametrize("marks", [(), {}, ("v_pred", "ztsnr"), V | ZERO])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"prediction": "v", "zero_terminal_snr": False}, (True, False)),
        ({"prediction": "v", "zero_terminal_snr": True}, (True, True)),
        ({"prediction": "epsilon"}, (False, False)),
    ],
)
def test_what_is_asked_for_stands_above_the_marks(models, marks, asked, expected):
    backbone = models(marks, **asked)
    assert kind(backbone) == expected
    config = backbone._pipeline.scheduler.config  # what samples are drawn by
    assert (config.prediction_type == "v_prediction") == expected[0]
    assert config.rescale_betas_zero_snr == expected[1]


def test_the_last_level_is_noise_and_its_target_the_picture(models):
    denoiser = models(("v_pred", "ztsnr")).denoiser
    clean, noise = torch.randn(2, 1, 4, 8, 8)
    noisy, target = denoiser.corrupt(clean, noise, torch.tensor([999]))
    torch.testing.assert_close(noisy, noise, rtol=0, atol=2e-3)
    torch.testing.assert_close(target, -clean, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_last_level_stays_finite_in_half_precision(models, dtype):
    backbone = models(("v_pred", "ztsnr"))
    denoiser = backbone.denoiser
    denoiser.network.to(dtype)
    told = backbone.conditioning((64, 64), "a dog")
    noise = 4 * torch.ones(1, 4, 8, 8)
    t = torch.tensor([999])
    noisy, target = denoiser.corrupt(torch.zeros(1, 4, 8, 8), noise, t)
    assert denoiser.predict(noisy, t, told).isfinite().all() and target.isfinite().all()
    assert denoiser.snr(t).isfinite().all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pictures_are_drawn_from_noise_alone(models):
    backbone = models(("v_pred", "ztsnr"))
    [picture] = backbone.painter(Drawing(("a dog",), None, 0, 2, 3.0, 64))()
    assert np.asarray(picture, float).std() > 0


@pytest.mark.parametrize(
    ("marks", "asked", "named"),
    [
        (("edm_mean", "edm_std"), {}, "EDM .*edm_mean"),
        (("edm_vpred.sigma_max",), {}, "edm_vpred"),
        ((), {"zero_terminal_snr": True}, "add --prediction v"),
        ({}, {"prediction": "epsilon", "zero_terminal_snr": True}, "--no-zero-terminal-snr"),
    ],
)
def test_what_cannot_be_trained_is_named(models, marks, asked, named):
    with pytest.raises(LoRA2Error, match=named):
        models(marks, **asked)


def test_a_command_trains_it_and_the_file_says_so(tmp_path):
    model = write_folder(tmp_path / "model")
    (tmp_path / "images").mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "images" / "a.png")
    common = ["train", "--model", str(model), "--images", str(tmp_path / "images"), "--prompt"]
    common += ["a dog", "--resolution", "64", "--steps", "2", "--r-init", "2", "--r-max", "4"]
    common += ["--device", "cpu", "--save-every", "0"]
    losses = {}
    for name, more in {
        "epsilon": [], "v": ["--prediction", "v"],
        "zero": ["--prediction", "v", "--zero-terminal-snr"],
    }.items():  # fmt: skip
        out = tmp_path / f"{name}.safetensors"
        assert main([*common, "--out", str(out), *more]) == 0
        found = read_header(out).metadata["modelspec.prediction_type"]
        assert found == ("epsilon" if name == "epsilon" else "v")
        ups = [t for k, t in load_file(out).items() if "lora_up" in k]
        assert all(up.isfinite().all() for up in ups)
        losses[name] = sum(float(up.float().abs().sum()) for up in ups)
    assert len(set(losses.values())) == 3


def test_the_demo_model_has_a_prediction_of_its_own(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a.png")
    options = ["--images", str(tmp_path / "images"), "--prompt", "a dog", "--prediction", "v"]
    out = ["--out", str(tmp_path / "x.safetensors")]
    assert main(["train", "--model", "demo", *options, *out]) == 2
    assert "prediction" in capsys.readouterr().err
