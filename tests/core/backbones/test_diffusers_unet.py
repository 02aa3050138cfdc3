"""A whole run on diffusers' own UNet, small, with size conditioning as in SDXL."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from peers import two_level_unet

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import Example, batches
from lora2_core.training.loop import train

CONFIG = TrainConfig(
    steps=3, r_init=4, r_max=8, learning_rate=1e-3, entropy_queries=9, lambda_e=1e-4, dtype="fp32"
)


@pytest.fixture(scope="module")
def denoiser():
    return DiffusersUNet(
        two_level_unet(
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 10,
        )
    )


def data():
    generator = torch.Generator().manual_seed(1)
    examples = [
        Example(
            torch.randn(1, 4, 8, 8, generator=generator),
            {
                "context": torch.randn(1, 77, 24, generator=generator),
                "pooled": torch.randn(1, 10, generator=generator),
                "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
            },
        )
        for _ in range(2)
    ]
    return batches(examples, batch_size=1, accumulation=1, seed=0)


def test_corruption_is_that_of_the_schedule_of_sdxl(denoiser):
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )
    latents, noise = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    t = torch.tensor([0, 1, 500, 999])
    noisy, target = denoiser.corrupt(latents, noise, t)
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, t), rtol=1e-5, atol=1e-5)
    assert target is noise


@pytest.mark.parametrize("targets", ["attention", "attention+feed_forward", "all_linear+conv"])
def test_every_choice_of_layers_trains_them_all(denoiser, targets):
    config = replace(CONFIG, targets=targets, r_init=3, r_max=3)
    result = train(denoiser, data(), config)
    still = [name for name, (_, up) in result.factors.items() if up.abs().sum() == 0]
    assert still == []
    assert all(name.split(".")[0].endswith(("block", "blocks", "embed", "emb", "out"))
               for name in result.factors)  # fmt: skip


def test_checkpointing_changes_no_bit_and_the_network_is_left_alone(denoiser):
    results = []
    for checkpointing in (True, False):
        config = replace(CONFIG, gradient_checkpointing=checkpointing)
        seen = []
        results.append(train(denoiser, data(), config, seen.append))
        assert all(info.entropy > 0 for info in seen)
    for name, factors in results[0].factors.items():
        assert all(map(torch.equal, factors, results[1].factors[name]))
    for module in denoiser.network.modules():
        assert not module._forward_hooks and "forward" not in vars(module)
    assert all(p.grad is None and not p.requires_grad for p in denoiser.network.parameters())
