"""Diffusers folders and single-file checkpoints as backbones."""

import json
import shutil
import weakref

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from tiny_pipeline import write_checkpoint, write_folder, write_tokenizer
from unet_shapes import PREFIX

from lora2_core.backbones.diffusers_unet import DiffusersUNet, state_names
from lora2_core.backbones.pipeline import load_checkpoint, load_folder
from lora2_core.errors import LoRA2Error

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    here = tmp_path_factory.mktemp("checkpoint")
    return write_checkpoint(here / "koala.safetensors"), write_tokenizer(here / "words")


def picture(side=64):
    return Image.effect_noise((side, side), 60).convert("RGB")


def predicted(backbone, example):
    return backbone.denoiser.predict(
        example.latent, torch.tensor([500]), dict(example.conditioning)
    )


def test_a_folder_encodes_as_its_pipeline_does(folder):
    backbone = load_folder(folder, **CPU)
    shown = picture()
    example = backbone.example(shown, "a dog")
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    context, _, pooled, _ = pipeline.encode_prompt("a dog", do_classifier_free_guidance=False)
    pixels = pipeline.image_processor.preprocess(shown)
    with torch.no_grad():
        latent = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
    assert torch.allclose(example.latent, latent, atol=1e-6)
    assert torch.equal(example.conditioning["context"], context.detach())
    assert torch.equal(example.conditioning["pooled"], pooled.detach())
    assert example.conditioning["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]]
    assert predicted(backbone, example).shape == (1, 4, 8, 8)


def test_unet_and_encoders_are_not_on_the_device_at_once(folder):
    device = torch.device("meta")
    backbone = load_folder(folder, device=device, dtype=torch.float32)
    parts = backbone._pipeline
    for part in (parts.vae, parts.text_encoder, parts.text_encoder_2):
        assert {p.device for p in part.parameters()} == {device}
    assert backbone.denoiser.device.type == "cpu"
    gone = weakref.ref(parts.text_encoder)
    del parts
    backbone.forget_encoders()
    assert gone() is None and backbone.denoiser.device.type == "cpu"


def test_a_checkpoint_and_the_folder_made_of_it_are_the_same(checkpoint, tmp_path):
    file, words = checkpoint
    backbone = load_checkpoint(file, words, **CPU)
    shown = picture()
    example = backbone.example(shown, "a dog on grass")
    backbone._pipeline.save_pretrained(tmp_path / "folder")
    again = load_folder(tmp_path / "folder", **CPU)
    other = again.example(shown, "a dog on grass")
    assert torch.equal(example.latent, other.latent)
    for name, tensor in example.conditioning.items():
        # the projection lies in memory the other way round: the same numbers, added up otherwise
        assert torch.allclose(tensor, other.conditioning[name], atol=1e-4), name
    assert torch.allclose(predicted(backbone, example), predicted(again, other), atol=1e-4)


def test_every_weight_of_a_checkpoint_is_in_the_unet(checkpoint):
    file, words = checkpoint
    unet = load_checkpoint(file, words, **CPU).denoiser.network
    stored = load_file(file)
    state = unet.state_dict()
    names = state_names(unet)
    assert {PREFIX + name for name in names.values()} == {n for n in stored if n.startswith(PREFIX)}
    for key, name in names.items():
        assert torch.equal(state[key], stored[PREFIX + name].float()), name


def test_captions_matter(folder):
    backbone = load_folder(folder, **CPU)
    one, other = (backbone.example(picture(), text) for text in ("a dog", "a cat"))
    assert not torch.equal(one.conditioning["pooled"], other.conditioning["pooled"])


def test_v_prediction_is_read_from_the_scheduler(folder, tmp_path):
    other = tmp_path / "v"
    shutil.copytree(folder, other)
    file = other / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    assert load_folder(other, **CPU).denoiser.predicts_v
    assert not load_folder(folder, **CPU).denoiser.predicts_v


def test_v_is_what_takes_noisy_latents_back_to_clean_ones():
    unet = UNet2DConditionModel(block_out_channels=(32,), down_block_types=("DownBlock2D",),
                                up_block_types=("UpBlock2D",))  # fmt: skip
    denoiser = DiffusersUNet(unet, predicts_v=True)
    clean, noise = torch.randn(2, 3, 4, 8, 8)
    t = torch.tensor([0, 500, 999])
    noisy, v = denoiser.corrupt(clean, noise, t)
    snr = denoiser.snr(t).view(-1, 1, 1, 1)
    alpha = snr / (1 + snr)
    assert torch.allclose(alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, clean, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prediction_type": "sample"}, "prediction_type sample"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr True.*add --prediction v"),
        ({"beta_end": 0.02}, r"beta_end is 0\.02"),
    ],
)
def test_other_schedules_are_refused(folder, tmp_path, change, named):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    file = other / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(LoRA2Error, match=named):
        load_folder(other, **CPU)


def test_other_pipelines_are_named(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(LoRA2Error, match="FluxPipeline"):
        load_folder(tmp_path, **CPU)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(LoRA2Error, match=r"model_index\.json"):
        load_folder(tmp_path, **CPU)


def test_a_folder_with_missing_weights_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(LoRA2Error, match="cannot be loaded"):
        load_folder(other, **CPU)


def test_a_checkpoint_needs_a_tokenizer(checkpoint, tmp_path):
    file, _ = checkpoint
    for folder in (None, tmp_path):
        with pytest.raises(LoRA2Error, match="sd1_tokenizer"):
            load_checkpoint(file, folder, **CPU)


def test_a_truncated_checkpoint_is_refused(checkpoint, tmp_path):
    file, words = checkpoint
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(LoRA2Error, match=r"cut\.safetensors"):
        load_checkpoint(cut, words, **CPU)
