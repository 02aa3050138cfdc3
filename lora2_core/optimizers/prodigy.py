"""Prodigy: Adam that finds its learning rate."""

import math
from contextlib import redirect_stdout
from os import devnull

import torch
from torch import Tensor, nn

from ..errors import importing
from .pieces import RowPieces, State

_PER_ROW = ("exp_avg", "exp_avg_sq", "s", "p0")
_OF_ALL = ("d", "d_max", "d_numerator", "d_denom", "d_hat", "k")


class RowProdigy(RowPieces):
    """prodigyopt's Prodigy (arXiv 2306.06101), with bias correction and safeguarded warm-up as in
    diffusers' DreamBooth script; the learning rate is a factor on what it finds.

    It has one rate d and one count of steps for everything, where rows have lives of their own:

    - d is found from a ratio: how far the rows have gone along their gradients, over Σ|s|, s being
      a sum of gradients each row has. The upper sum remembers thousands of steps and does not know
      its rows. When rows come or go, the lower sum would change and the upper would not, and d,
      which never falls, would be wrong for good. So the upper one is scaled along: the ratio stays.
    - The bias correction is that of the first rows. A row that came later moves by its own instead:
      its step is scaled by the ratio of the two corrections, so that its first is d times the
      learning rate, and not up to three times that.

    A new row takes the d that was found without it, and measures its way from where it began.
    """

    @staticmethod
    def make(
        parameters: list[nn.Parameter], learning_rate: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        with importing("prodigyopt", "optimizer is prodigy", "choose adamw"):
            from prodigyopt import Prodigy
        with open(devnull, "w") as nowhere, redirect_stdout(nowhere):  # it greets by print
            return Prodigy(
                parameters,
                lr=learning_rate,
                weight_decay=weight_decay,
                use_bias_correction=True,
                safeguard_warmup=True,
            )

    def cut(self, state: State, rows: int, at: int) -> tuple[State, State]:
        low, high = dict(state), dict(state)
        for name in _PER_ROW:
            value = state[name]
            if value.ndim:  # p0 of a piece that began at zero is a single zero
                place = at * (value.numel() // rows) if value.ndim == 1 else at
                low[name], high[name] = value[:place].clone(), value[place:].clone()
        return low, high

    def before_change(self, changed: list[int]) -> None:
        self._sum_before = self._sum_of_s() if changed else 0.0
        super().before_change(changed)

    def follow(self, changed: list[int]) -> None:
        super().follow(changed)
        group = self.inner.param_groups[0]
        if changed and group["d_numerator"] != 0 and self._sum_before > 0:
            group["d_numerator"] *= self._sum_of_s() / self._sum_before

    def move(self) -> None:
        count = self.inner.param_groups[0]["k"]
        late = [
            (parameter, parameter.detach().clone(), self.inner.state[parameter].get("step", 0))
            for parameter in self.inner.param_groups[0]["params"]
            if self.inner.state[parameter].get("step", 0) < count
        ]
        self.inner.step()
        for parameter, before, age in late:
            ratio = _correction(age + 1) / _correction(count + 1)
            with torch.no_grad():
                parameter.copy_(torch.lerp(before, parameter, ratio))

    def extra_state(self) -> tuple[dict[str, Tensor], dict]:
        tensors, facts = super().extra_state()
        group = self.inner.param_groups[0]
        return tensors, facts | {"group": {k: group[k] for k in _OF_ALL if k in group}}

    def restore_extra(self, tensors, facts) -> None:
        super().restore_extra(tensors, facts)
        self.inner.param_groups[0].update(facts["group"])

    def _sum_of_s(self) -> float:
        """Σ|s| over the active rows."""
        parameters = self.inner.param_groups[0]["params"]
        sums = [self.inner.state[p]["s"].abs().sum() for p in parameters if p in self.inner.state]
        return torch.stack(sums).double().sum().item() if sums else 0.0


def _correction(age: int) -> float:
    """What Adam multiplies the step `age` (from 1) by: √(1−β₂ᵗ)/(1−β₁ᵗ)."""
    return math.sqrt(1 - 0.999**age) / (1 - 0.9**age)
