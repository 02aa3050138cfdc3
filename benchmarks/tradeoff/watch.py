"""What a training does with its ranks, step by step, and what pulls at ν."""

from statistics import median

import torch
from torch import Tensor

from lora2_core.training.loop import Training
from lora2_core.training.result import StepInfo

_FRAMES = 8  # in which every rank is kept
_DIGITS = 3


class Watch:
    """Follows one Training; `step` is its on_step.

    The pull is dL/dν of a step's loss without the rank term: prediction, and entropy where there
    is such a term (`lora2_no_entropy` has the prediction alone). It is read as it arrives, before
    the rank term's is added to it; while ν does not move there is none.
    """

    def __init__(self, training: Training):
        self._rho = training._method.rho  # the benchmark's own reach into the core
        self._arrived: list[Tensor] = []
        self._pulls: list[Tensor] = []
        self._ranks: list[tuple[int, ...]] = []
        if self._rho is not None:
            self._rho.register_hook(self._take)

    def step(self, info: StepInfo) -> None:
        self._ranks.append(info.ranks)
        if self._arrived:
            self._pulls.append(self._arrived[0])
            self._arrived.clear()

    def trajectory(self) -> dict:
        """steps, mean rank at each, and every rank at a few of them (in the file's order)."""
        frames = _spread(len(self._ranks), _FRAMES)
        means = _spread(len(self._ranks), 4 * _FRAMES)
        return {
            "steps": [index + 1 for index in means],
            "mean": [round(sum(r) / len(r), 2) for r in (self._ranks[i] for i in means)],
            "frames": {str(index + 1): list(self._ranks[index]) for index in frames},
        }

    def pull(self) -> dict | None:
        """Of each component the mean dL/dν over the steps; over components, medians of its size,
        of a single step's size, and of mean/√mean square, which says how much of it is signal.

        early, late: the median size of a single step in the first and last fifth.
        """
        if not self._pulls:
            return None
        found = torch.stack(self._pulls)  # [steps, L]
        mean, root = found.mean(0), found.square().mean(0).sqrt()
        fifth = max(1, len(found) // 5)
        return {
            "mean": [_short(value) for value in mean.tolist()],
            "size_of_mean": _short(mean.abs().median().item()),
            "size_of_step": _short(root.median().item()),
            "signal": _short(median((mean.abs() / root.clamp(min=1e-30)).tolist())),
            "early": _short(found[:fifth].abs().median().item()),
            "late": _short(found[-fifth:].abs().median().item()),
        }

    def _take(self, gradient: Tensor) -> None:
        """dL/dρ as it arrives; dν/dρ = σ(ρ)."""
        self._arrived.append(gradient.detach() / self._rho.detach().sigmoid())


def _spread(count: int, most: int) -> list[int]:
    """At most `most` indices of range(count), evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
