"""Settings and pictures that go through, and are probably not what was meant."""

from collections import Counter
from collections.abc import Sequence

import torch

from ..config import TrainConfig
from ..diffusion.data import Example


def doubts(
    config: TrainConfig, device: torch.device, own: Sequence[Example], prior: Sequence[Example] = ()
) -> list[str]:
    """One sentence each, for whoever started the run; device: where it is trained."""
    found = [*_of_settings(config, device), *_of_batches(config, own)]
    blank = sum(not example.latent.any() for example in (*own, *prior))
    if blank:
        found.append(
            f"{blank} of {len(own) + len(prior)} latents are zero throughout, as those of Empty "
            "Latent Image: there is no picture in them; encode the pictures with the VAE"
        )
    return found


def _of_settings(config: TrainConfig, device: torch.device) -> list[str]:
    found = []
    learned = config.method == "lora2" and config.importance != "flat"
    pulled = learned and config.lambda_r > 0 and not config.holds_budget
    if pulled and config.rank_freeze < 1 and config.r_target > config.r_max:
        found.append(
            f"r_target is {config.r_target:g}, but no layer grows past r_max, {config.r_max}: all "
            "are pulled up to it; lower r_target, or raise r_max"
        )
    if config.dtype == "fp16" and device.type == "cpu":
        found.append(
            "the precision is fp16 on a CPU, which is slow there and loses small gradients; fp32 "
            "or bf16 is better"
        )
    return found


def _of_batches(config: TrainConfig, own: Sequence[Example]) -> list[str]:
    """Of own examples alone: those of the prior come once a pass, and in batches as they are."""
    sizes = Counter(example.size for example in own)
    largest = max(sizes.values(), default=0) * config.repeats
    if not 0 < largest < config.batch_size:
        return []
    alike = "" if len(sizes) == 1 else " of one size"
    return [
        f"batch_size is {config.batch_size}, but a pass holds {largest} pictures{alike}, and no "
        f"step learns from more; raise repeats (now {config.repeats}), or lower batch_size"
    ]
