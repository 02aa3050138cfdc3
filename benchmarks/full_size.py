"""Time and memory of a training step on full-size networks, side by side, on a GPU.

python benchmarks/full_size.py [--network SDXL] [--size 128] [--rounds 3] [--out FILE.json]

Random weights in half precision, batch 1, gradient checkpointing of the same blocks for all; the
variants take turns, and figures are medians. PEFT trains as diffusers' DreamBooth script has it:
adapters in fp32, autocast, a fused AdamW. LoRA² runs with its ranks moving, but by the loss alone
and at a tenth of the usual rate, so that their mean stays where it began. `busy` is how long the
GPU computed in a step: where that is far below the step's time, the processor that launches its
kernels is what is measured. LoRA² is timed with the weights of all blocks in main memory, too, and
with `--savings` without each of the step's savings. With `--cap 8` torch may hold no more than that
many gigabytes, and nothing but whether training fits is told: as many blocks wait in main memory as
the estimate asks for.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import memory
import train_step

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.config import PRESETS, TrainConfig
from lora2_core.diffusion.data import batches
from lora2_core.diffusion.loss import prediction_loss
from lora2_core.room import trace
from lora2_core.room.offload import spread, visiting, weights_of
from lora2_core.room.plan import room_for
from lora2_core.training import entropy, loop, plan
from lora2_core.training import forward as forward_pass
from lora2_core.training.checkpointing import blocks_checkpointed
from lora2_core.training.entropy import EntropyProbe

WARM_UP, TIMED, TRACED = 2, 8, 2
STEPS = 500  # of the whole run, of which these are the first


class Enough(Exception):
    """Ends a run that has been timed."""


def network(name: str, dtype: torch.dtype, device: str) -> DiffusersUNet:
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            unet = train_step.koala_small() if name == "small" else memory.unet(name)
    finally:
        torch.set_default_dtype(torch.float32)
    return DiffusersUNet(unet)


class Clock:
    """on_step that times steps, then counts the kernels of two more, then ends the run."""

    def __init__(self, device: torch.device, timed: int):
        self._on_gpu = device.type == "cuda"
        self._timed = timed
        self._stamps: list[float] = []
        self._trace = None
        self.mean_rank = 0.0
        self.peak = 0  # bytes, of the timed steps
        self.kernels, self.busy = 0.0, 0.0  # of a step, and seconds in them

    def __call__(self, mean_rank: float) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
        self._stamps.append(time.perf_counter())
        self.mean_rank = mean_rank
        done = len(self._stamps) - WARM_UP
        if done == 0 and self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        if done == self._timed:
            if not self._on_gpu:
                raise Enough
            self.peak = torch.cuda.max_memory_allocated()
            self._trace = profile(activities=[ProfilerActivity.CUDA])
            self._trace.start()
        if done == self._timed + TRACED:
            self._trace.stop()
            found = [e for e in self._trace.events() if e.device_type == DeviceType.CUDA]
            self.kernels = len(found) / TRACED
            self.busy = sum(e.time_range.elapsed_us() for e in found) / 1e6 / TRACED
            raise Enough

    @property
    def seconds(self) -> float:
        late = self._stamps[WARM_UP - 1 : WARM_UP + self._timed]
        return statistics.median(b - a for a, b in itertools.pairwise(late))


def ours(denoiser: DiffusersUNet, data, on_step: Callable[[float], None], **settings) -> None:
    """LoRA² or plain LoRA for as long as on_step lets it."""
    config = TrainConfig(
        **{"steps": STEPS, "r_max": 512, "rank_hold": 0.0, "lambda_r": 0.0, "rank_rate": 3.0}
        | settings
    )
    order = batches(data, batch_size=1, accumulation=1, seed=0)
    loop.train(denoiser, order, config, lambda info: on_step(info.mean_rank))


@contextmanager
def offloaded(denoiser: DiffusersUNet, blocks: list[torch.nn.Module]) -> Iterator[None]:
    """The weights of these blocks wait in main memory within the `with`."""
    device = denoiser.device
    spread(denoiser.network, blocks, device)
    torch.cuda.empty_cache()
    try:
        with visiting(blocks, device):
            yield
    finally:
        torch.cuda.empty_cache()
        denoiser.network.to(device)


def peft(denoiser: DiffusersUNet, data, on_step: Callable[[float], None], rank: int) -> None:
    """PEFT's LoRA on the same layers."""
    from peft import LoraConfig

    unet = denoiser.network
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names))
    weights = [p for p in unet.parameters() if p.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=weights[0].is_cuda)
    order = batches(data, batch_size=1, accumulation=1, seed=0)
    device = denoiser.device
    try:
        with blocks_checkpointed(denoiser.blocks, None, True):
            for _ in range(STEPS):
                batch = next(order)[0]
                latents = batch.latents.to(device)
                t = torch.randint(denoiser.timesteps, (1,)).to(device)
                noisy, target = denoiser.corrupt(latents, torch.randn_like(latents), t)
                told = {name: part.to(device) for name, part in batch.conditioning.items()}
                with torch.autocast(device.type, unet.dtype):
                    predicted = denoiser.predict(noisy, t, told)
                loss = prediction_loss(predicted, target)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                loss.item()
                on_step(rank)
    finally:
        unet.delete_adapters("default")
        unet.requires_grad_(False)


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def each_by_itself(probe: EntropyProbe, query: torch.Tensor, index: int) -> torch.Tensor:
    """A layer's queries, drawn and copied to the device for it alone."""
    generator = torch.Generator().manual_seed(hash((probe.passes, index)))
    chosen = torch.randperm(query.shape[1], generator=generator)[: probe.queries]
    return query[:, chosen.to(query.device)]


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Queries and entropies."""
    with (
        replaced(EntropyProbe, "_subset", each_by_itself),
        replaced(entropy, "_AT_ONCE", 1),
    ):
        yield


@contextmanager
def cast_by_cast() -> Iterator[None]:
    """Every factor where it is used."""

    def nothing(*_):
        return nullcontext()

    with (
        replaced(loop, "half_factors", nothing),
        replaced(trace, "half_factors", nothing),
    ):
        yield


WITHOUT = {  # saving → what switches it off
    "casts of all layers at once": cast_by_cast,
    "no autocast": lambda: replaced(
        forward_pass,
        "_computing_in",
        lambda dtype, denoiser: torch.autocast(denoiser.device.type, dtype),
    ),
    "entropies of many layers at once": layer_by_layer,
}


def variants(rank: int) -> dict[str, Callable]:
    """Name → run(denoiser, data, on_step)."""

    def lora2(denoiser, data, on_step, r_init=rank, **more):
        ours(denoiser, data, on_step, r_init=r_init, **more)

    def lora(denoiser, data, on_step, r_init=rank):
        ours(denoiser, data, on_step, method="lora", r_init=r_init)

    def waiting(denoiser, data, on_step):
        with offloaded(denoiser, denoiser.blocks):
            lora2(denoiser, data, on_step)

    found = {
        f"lora2 {rank}": lora2,
        f"lora2 {rank} with weights in main memory": waiting,
        f"lora {rank}": lora,
        f"peft {rank}": lambda *args: peft(*args, rank=rank),
        "lora 512": lambda *args: lora(*args, r_init=512),
    }
    for saving, off in WITHOUT.items():

        def without(*args, off=off):
            with off():
                lora2(*args)

        found[f"lora2 {rank} without: {saving}"] = without

    def without_any(*args):
        first, second, third = WITHOUT.values()
        with first(), second(), third():
            lora2(*args)

    return found | {f"lora2 {rank} without: any of them": without_any}


def measure(run: Callable, denoiser: DiffusersUNet, data, timed: int) -> dict[str, float]:
    """Median seconds a step, and gigabytes that it adds to the network."""
    on_gpu = denoiser.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    clock = Clock(denoiser.device, timed)
    with suppress(Enough):
        run(denoiser, data, clock)
    return {
        "seconds": clock.seconds, "busy": clock.busy, "kernels": clock.kernels,
        "added_gb": (clock.peak - before) / 1e9 if on_gpu else 0.0, "mean_rank": clock.mean_rank,
    }  # fmt: skip


def compared(denoiser: DiffusersUNet, data, options: argparse.Namespace) -> Iterator[dict]:
    """What is known after each measurement; the last has all of it."""
    runs = {}
    for rank in options.ranks:
        runs |= {k: v for k, v in variants(rank).items() if options.savings or "without" not in k}
    found: dict[str, list[dict]] = {}
    for _ in range(options.rounds):
        for name, run in runs.items():
            found.setdefault(name, []).append(measure(run, denoiser, data, options.timed))
            print(name, {k: round(v, 4) for k, v in found[name][-1].items()}, flush=True)
            yield {"rounds": options.rounds} | summary(found, options.ranks)


def summary(found: dict[str, list[dict]], ranks: list[int]) -> dict:
    """Medians of every variant, and the median over rounds of its ratio to LoRA² of that rank."""

    def median(name, key):
        return round(statistics.median(row[key] for row in found[name]), 4)

    report = {name: {key: median(name, key) for key in found[name][0]} for name in found}
    ratios = {}
    for rank in ranks:
        first = f"lora2 {rank}"
        for name in (n for n in found if n != first and (n.startswith(first) or "lora2" not in n)):
            for key in ("seconds", "busy", "added_gb"):
                if all(row[key] > 0 for row in found[name]):
                    # the last round may have been cut off
                    pairs = zip(found[first], found[name], strict=False)
                    ratio = statistics.median(a[key] / b[key] for a, b in pairs)
                    ratios[f"{first} / {name}, {key}"] = round(ratio, 3)
    return {"variants": report, "ratios": ratios}


def fits(denoiser: DiffusersUNet, data, cap: float, timed: int, settings: dict) -> dict:
    """Whether a run keeps within `cap` gigabytes, the network's weights included."""
    total = torch.cuda.get_device_properties(0).total_memory
    clock = Clock(denoiser.device, timed)
    config = TrainConfig(steps=STEPS, **settings)
    starts = plan.starting_ranks(denoiser, config)
    room = room_for(denoiser, config, data, starts, int(cap * 1e9))
    told = {"cap_gb": cap, **settings, "said": room.words}
    told["waiting_gb"] = round(sum(map(weights_of, room.waiting)) / 1e9, 2)
    with offloaded(denoiser, room.waiting):
        torch.cuda.set_per_process_memory_fraction(cap * 1e9 / total)
        try:
            ours(denoiser, data, clock, **settings)
        except Enough:
            pass
        except torch.OutOfMemoryError as error:
            return told | {"fits": False, "error": str(error).splitlines()[0]}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    return told | {
        "fits": True, "seconds": round(clock.seconds, 4),
        "allocated_gb": round(clock.peak / 1e9, 2),
        "reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2),
    }  # fmt: skip


def capped(denoiser: DiffusersUNet, data, options: argparse.Namespace) -> Iterator[dict]:
    """fits for each cap and preset, with the usual pull on the ranks."""
    usual = {"lambda_r": TrainConfig.lambda_r, "rank_rate": TrainConfig.rank_rate}
    found = []
    for cap in options.cap:
        for preset in ("balanced", "small"):
            settings = PRESETS[preset] | usual
            found.append({"preset": preset} | fits(denoiser, data, cap, options.timed, settings))
            yield {"capped": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="SDXL", choices=("SDXL", "KOALA-700M", "small"))
    parser.add_argument("--weights", default="bf16", choices=("bf16", "fp16", "fp8"))
    parser.add_argument("--size", type=int, default=128, help="latent side; 128 is 1024 px")
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timed", type=int, default=TIMED, help="steps a variant and round")
    parser.add_argument("--savings", action="store_true", help="time each saving's absence, too")
    parser.add_argument("--cap", type=float, nargs="+", help="gigabytes that torch may hold")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if options.weights == "fp16" else torch.bfloat16
    denoiser = network(options.network, dtype, device)
    if options.weights == "fp8":
        memory.in_fp8(denoiser.network)
        denoiser = memory.InFp8(denoiser.network)
        torch.cuda.empty_cache()
    data = train_step.dataset(options.size)
    report = {
        "machine": train_step.machine(), "torch": torch.__version__, "network": options.network,
        "weights": options.weights, "pixels": 8 * options.size,
        "weights_gb": round(sum(p.nbytes for p in denoiser.network.parameters()) / 1e9, 3),
    }  # fmt: skip
    for more in (
        capped(denoiser, data, options) if options.cap else compared(denoiser, data, options)
    ):
        report |= more
        if options.out:
            options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
