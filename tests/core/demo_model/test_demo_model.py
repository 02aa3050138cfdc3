"""The demo model's parts: words, file and sampler."""

import math

import pytest
import torch

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.demo_model import checkpoint, sampling, state
from lora2_core.demo_model.networks import build_autoencoder, build_unet
from lora2_core.demo_model.text import TOKENS, TextEncoder, Tokenizer

WORDS = ("a", "red", "boot", "on", "the", "beach", "sks")


@pytest.fixture(scope="module")
def model():
    """Random weights: what is tested here does not depend on them."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(WORDS)
    networks = build_unet(), build_autoencoder(), TextEncoder(len(tokenizer))
    for network in networks:
        network.requires_grad_(False).eval()
    return checkpoint.DemoModel(*networks, tokenizer)


def test_a_prompt_becomes_its_words_between_start_and_end():
    tokenizer = Tokenizer(WORDS)
    ids = tokenizer.encode("A red, boot!")
    assert len(ids) == TOKENS and len(tokenizer) == len(WORDS) + 3
    assert ids[:5] == [1, 3, 4, 5, 0] and set(ids[4:]) == {0}
    assert tokenizer.encode("a green boot")[2] == 2  # unknown
    assert tokenizer.encode("") == [1] + [0] * (TOKENS - 1)
    assert tokenizer.encode("red " * 50)[-1] == 0


def test_the_pooled_vector_is_a_bag_of_words_and_the_context_is_not(model):
    one_context, one = model.encode_text("a red boot")
    other_context, other = model.encode_text("boot red a")
    assert torch.allclose(one, other, atol=1e-6)
    assert not torch.allclose(one_context[:, 1:4], other_context[:, 1:4], atol=1e-3)
    assert torch.isfinite(model.encode_text("")[1]).all()


def test_the_file_keeps_every_weight_and_is_small(model, tmp_path):
    path = tmp_path / "demo.safetensors"
    checkpoint.save(model, path, {"seed": 0})
    assert path.stat().st_size <= 24e6
    loaded = checkpoint.load(path)
    assert loaded.tokenizer.words == WORDS
    for part in ("unet", "autoencoder", "text"):
        expected = getattr(model, part).state_dict()
        found = getattr(loaded, part).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key].half().float()) for key in expected)
        assert not any(p.requires_grad for p in getattr(loaded, part).parameters())


def test_names_in_the_file_are_those_of_sdxl_checkpoints(model, tmp_path):
    path = tmp_path / "demo.safetensors"
    checkpoint.save(model, path, {})
    tensors, _ = state.read_state(path)
    for name in (
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.output_blocks.1.2.conv.weight",
        "first_stage_model.taesd_decoder.1.weight",
        "first_stage_model.taesd_encoder.0.weight",
        "first_stage_model.vae_scale",
    ):
        assert name in tensors
    assert not any("middle_block" in name for name in tensors)


def test_the_noise_levels_are_those_of_euler_on_sdxls_schedule():
    denoiser = DiffusersUNet(build_unet())
    levels, times = sampling.sigmas(denoiser, 20)
    assert levels[-1] == 0 and times[0] == 999 and times[-1] == 0 and len(levels) == 21
    # σ = √((1−ᾱ)/ᾱ) of the scaled-linear schedule; log σ is interpolated between whole times
    beta = [(0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2 for i in range(1000)]
    kept, logs = 1.0, []
    for b in beta:
        kept *= 1 - b
        logs.append(0.5 * math.log((1 - kept) / kept))
    for index, level in enumerate(levels[:-1].tolist()):
        t = 999 * (19 - index) / 19
        assert times[index] == round(t)
        low = math.floor(t)
        share = t - low
        expected = math.exp((1 - share) * logs[low] + share * logs[min(low + 1, 999)])
        assert level == pytest.approx(expected, rel=1e-4)


class Known:
    """A denoiser that knows the one picture there is."""

    timesteps = 1000

    def __init__(self, picture):
        self.picture = picture
        self.real = DiffusersUNet(build_unet())
        self.snr = self.real.snr

    def predict(self, noisy, t, conditioning):
        whole = t.round().long()
        alpha = (self.snr(whole) / (1 + self.snr(whole))).view(-1, 1, 1, 1)
        told = conditioning["told"].view(-1, 1, 1, 1)
        return (noisy - alpha.sqrt() * told * self.picture) / (1 - alpha).sqrt()


def test_a_perfect_denoiser_is_led_to_its_picture():
    picture = torch.randn(1, 4, 16, 16)
    known = Known(picture)
    noise = torch.randn(1, 4, 16, 16)
    told = {"told": torch.ones(1)}
    found = sampling.sample(known, noise, told, told, steps=100, guidance=1.0)
    assert (found - picture).abs().max() < 0.05
    # guidance leads away from the negative (here: nothing) by its factor
    free = {"told": torch.zeros(1)}
    led = sampling.sample(known, noise, told, free, steps=100, guidance=2.0)
    assert (led - 2 * picture).abs().max() < 0.1
