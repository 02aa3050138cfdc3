"""Time and memory of a training step, side by side on one UNet.

python benchmarks/train_step.py [--size 16] [--rounds 3] [--out benchmarks/results/NAME.json]

Each variant runs in a process of its own, the variants in turn, `rounds` times over; figures are
medians, and what counts are the ratios. Memory is taken in a round of its own, in which freed
memory goes back to the system at once, so that the resident size says what is held. The UNet has
KOALA-700M's structure at 640 channels throughout, with random weights: speed and memory do not
depend on them. LoRA² gathers effects in every second step, so that steps are timed by twos. What it
looks at before the first step, 4 % of a run, is not in them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from report import put

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import Example, batches
from lora2_core.diffusion.loss import prediction_loss
from lora2_core.training.checkpointing import blocks_checkpointed
from lora2_core.training.loop import train

WARM_UP, TIMED = 3, 10
RANK = 16  # the mean of LoRA², and of those at its side
VARIANTS = ("lora2", "lora", "peft", "lora512", "peft512", "learned_nu_from_512")
COMPARED = (
    ("lora2", "lora"),
    ("lora2", "peft"),
    ("lora2", "lora512"),
    ("lora2", "peft512"),
    ("learned_nu_from_512", "lora512"),
    ("learned_nu_from_512", "peft512"),
)


def koala_small() -> UNet2DConditionModel:
    """168 attention projections in KOALA-700M's places, 640 channels wide: room for rank 512."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(320, 640, 640),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 5),
        attention_head_dim=(5, 10, 10),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def dataset(size: int) -> list[Example]:
    """Five random latents [1, 4, size, size] with conditioning of SDXL's shapes."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    time_ids = torch.tensor([[8.0 * size, 8.0 * size, 0.0, 0.0, 8.0 * size, 8.0 * size]])
    return [
        Example(
            noise(1, 4, size, size),
            {"context": noise(1, 77, 2048), "pooled": noise(1, 1280), "time_ids": time_ids},
        )
        for _ in range(5)
    ]


def reset_peak() -> None:
    """Starts peak_memory anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Most memory held since reset_peak, MiB: allocated on a GPU, resident on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def measure(options: argparse.Namespace) -> dict:
    """Seconds a step (median) and peak memory of one variant, in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    denoiser = DiffusersUNet(koala_small().to(device))
    data = dataset(options.size)
    reset_peak()
    base = peak_memory()
    stamps = [time.perf_counter()]
    ranks: list[float] = []

    def on_step(step, steps, mean_rank):
        if device == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        ranks.append(mean_rank)
        if step == steps - TIMED:
            reset_peak()

    if options.variant in ("peft", "peft512"):
        rank = 512 if options.variant == "peft512" else RANK
        _train_peft(denoiser, data, rank, on_step)
    else:
        order = batches(data, batch_size=1, accumulation=1, seed=0)
        train(
            denoiser,
            order,
            _config(options),
            lambda info: on_step(info.step, info.steps, info.mean_rank),
        )
    by_twos = stamps[-TIMED - 1 :: 2]
    timed = [(b - a) / 2 for a, b in pairwise(by_twos)]
    return {
        "seconds": statistics.median(timed),
        "memory": peak_memory() - base,
        "mean_rank": ranks[-1],
    }


def _config(options: argparse.Namespace) -> TrainConfig:
    common = {"dtype": options.dtype, "r_max": 512}
    if options.variant == "learned_nu_from_512":
        # ranks move for the first part of the run and are frozen while time is taken
        steps = 40
        return TrainConfig(
            steps=steps, r_init=512, importance="unit_energy", start="even", lambda_e=1e-4,
            rank_freeze=(TIMED + WARM_UP) / steps, rank_rate=4.0, shrink_patience=2, **common,
        )  # fmt: skip
    steps = WARM_UP + TIMED
    if options.variant == "lora2":
        return TrainConfig(steps=steps, r_init=RANK, **common)
    # plain: it gathers no effects
    rank = 512 if options.variant == "lora512" else RANK
    return TrainConfig(method="lora", steps=steps, r_init=rank, effect_share=1.0, **common)


def _train_peft(denoiser: DiffusersUNet, data: list[Example], rank: int, on_step) -> None:
    from peft import LoraConfig

    torch.manual_seed(0)
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    denoiser.network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names))
    weights = [p for p in denoiser.network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-5, fused=True if weights[0].is_cuda else None)
    order = batches(data, batch_size=1, accumulation=1, seed=0)
    with blocks_checkpointed(denoiser.blocks, None, True):
        for step in range(WARM_UP + TIMED):
            batch = next(order)[0]
            latents = batch.latents.to(denoiser.device)
            t = torch.randint(denoiser.timesteps, (1,)).to(denoiser.device)
            noisy, target = denoiser.corrupt(latents, torch.randn_like(latents), t)
            conditioning = {k: v.to(denoiser.device) for k, v in batch.conditioning.items()}
            loss = prediction_loss(denoiser.predict(noisy, t, conditioning), target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            on_step(step + 1, WARM_UP + TIMED, rank)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16, help="latent side; 128 is 1024 px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options)))
        return
    found: dict[str, list[dict]] = {variant: [] for variant in options.variants}
    memory: dict[str, float] = {}
    for round_ in range(options.rounds + 1):
        for variant in found:
            figures = _child(options, variant, weighed=round_ == 0)
            memory.setdefault(variant, figures["memory"])
            if round_ > 0:
                found[variant].append(figures | {"memory": memory[variant]})
                print(variant, found[variant][-1], flush=True)
    report = summary(found) | {"machine": machine(), "size": options.size, "dtype": options.dtype}
    put(report, options.out)


def _child(options: argparse.Namespace, variant: str, weighed: bool) -> dict:
    command = [sys.executable, __file__, "--variant", variant]
    command += ["--size", str(options.size), "--dtype", options.dtype]
    env = dict(os.environ)
    if weighed:  # else glibc keeps freed tensors; but every temporary then costs page faults
        env |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def summary(found: dict[str, list[dict]]) -> dict:
    """Medians of each variant, and the median over rounds of each ratio."""

    def median(variant, key):
        return statistics.median(figures[key] for figures in found[variant])

    def ratio(a, b, key):
        pairs = zip(found[a], found[b], strict=True)
        return round(statistics.median(x[key] / y[key] for x, y in pairs), 3)

    return {
        "variants": {
            variant: {key: round(median(variant, key), 4) for key in found[variant][0]}
            for variant in found
        },
        "ratios": {
            f"{a}/{b} {key}": ratio(a, b, key)
            for a, b in COMPARED
            if a in found and b in found
            for key in ("seconds", "memory")
        },
    }


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
