"""What a MODEL's sampling means: noise levels, the times that the network is told, ε or v.

Told from what the sampling computes, and not from its name: samplings are put together from a
schedule and a prediction, and nodes may bring either.
"""

from dataclasses import dataclass

import comfy.model_sampling
import torch
from torch import Tensor

from ...lora2_core.errors import LoRA2Error

_TIMES = 1000  # SDXL's network was trained with times 0 … 999
_CLOSE = 1e-3  # relative; an LCM's own boundary terms are a hundred times smaller
_HINT = "use a checkpoint with ε- or v-prediction on the discrete schedule"


@dataclass(frozen=True)
class Schedule:
    """sigmas: noise of each level against an image of variance one, rising. times: what the network
    is told there. Both [levels], fp32, on the CPU.
    """

    sigmas: Tensor
    times: Tensor
    predicts_v: bool


def schedule_of(sampling) -> Schedule:
    """Raises LoRA2Error, to be put behind the model's name, for one that cannot be trained."""
    kind, prediction = _parts(sampling)
    with torch.inference_mode(False), torch.no_grad():
        # copies: a loaded model's are inference tensors
        sigmas = getattr(sampling, "sigmas", torch.zeros(0)).detach().cpu().float().clone()
        if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
            raise LoRA2Error(f"samples on the schedule {kind}, which cannot be trained; {_HINT}")
        predicts_v = _predicts_v(sampling, sigmas, prediction)
        times = sampling.timestep(sigmas).detach().cpu().float().clone()
    low, high = float(times.min()), float(times.max())
    if not 0 <= low < high < _TIMES or high < _TIMES / 2:
        raise LoRA2Error(
            f"samples on the schedule {kind}, which tells the network times from {low:.3g} to "
            f"{high:.3g}, where SDXL's are 0 to {_TIMES - 1}; {_HINT}"
        )
    return Schedule(sigmas, times, predicts_v)


def _predicts_v(sampling, sigmas: Tensor, prediction: str) -> bool:
    """By what the sampling makes of an output: x − σ ε, or x/(1+σ²) − σ v/√(1+σ²)."""
    some = sigmas[:: max(1, len(sigmas) // 7)]
    noisy, output = torch.randn(2, len(some), 4, 2, 2, generator=torch.Generator().manual_seed(0))
    sigma = some.view(-1, 1, 1, 1)
    energy = 1 + sigma**2
    scaled = sampling.calculate_input(some, noisy)
    denoised = sampling.calculate_denoised(some, output, noisy)
    alike = _alike(scaled, noisy / energy.sqrt())
    if alike and _alike(denoised, noisy - sigma * output):
        return False
    if alike and _alike(denoised, noisy / energy - sigma * output / energy.sqrt()):
        return True
    raise LoRA2Error(f"predicts {prediction}, which cannot be trained; {_HINT}")


def _alike(one: Tensor, other: Tensor) -> bool:
    """At each level."""
    apart, size = (part.flatten(1).norm(dim=1) for part in (one.cpu() - other, other))
    return bool((apart <= _CLOSE * size).all())


def _parts(sampling) -> tuple[str, str]:
    """Names of the schedule and of the prediction that a sampling is put together from."""
    found = [kind for kind in type(sampling).__mro__[1:] if kind.__module__ != "builtins"]
    schedules = [kind for kind in found if issubclass(kind, torch.nn.Module)]
    others = [kind for kind in found if kind not in schedules]
    own = type(sampling).__name__
    return (
        schedules[0].__name__ if schedules else own,
        others[0].__name__ if others else own,
    )
