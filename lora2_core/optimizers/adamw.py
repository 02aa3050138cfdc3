"""torch's AdamW over rows that come and go."""

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import nn

from ..layers.adapter import Adapter, Rows
from .rows import RowOptimizer


class RowAdamW(RowOptimizer):
    """AdamW for the factors of all adapters and, in a group of its own, for ρ.

    adapters: the adapted layers. rho: [L] or None. rho's group has no weight decay.
    """

    def __init__(
        self,
        adapters: list[Adapter],
        rho: nn.Parameter | None,
        *,
        learning_rate: float,
        rho_learning_rate: float,
        weight_decay: float,
    ):
        super().__init__(adapters, rho)
        self._steps_since: list[int] = [0] * len(adapters)
        on_gpu = adapters[0].device.type == "cuda"
        groups = [{"params": [nn.Parameter(torch.empty(0))], "weight_decay": weight_decay}]
        if rho is not None:
            groups.append({"params": [rho], "lr": rho_learning_rate, "weight_decay": 0.0})
        self.adamw = torch.optim.AdamW(groups, lr=learning_rate, fused=True if on_gpu else None)
        self.stepped = self.rho_adamw = self.adamw
        self.follow(list(range(len(adapters))))

    def set_rate(self, learning_rate: float) -> None:
        self.adamw.param_groups[0]["lr"] = learning_rate

    def follow(self, changed: list[int]) -> None:
        ages: list[int] = []
        for index in changed:
            self._segments[index] = list(_runs(self.adapters[index]))
            ages += [rows.ages[start] for _, rows, start, _ in self._segments[index]]
        if not changed:
            return
        on_gpu = self.adamw.param_groups[0]["fused"]
        device = self.adapters[0].device if on_gpu else "cpu"
        # all in one tensor: each by itself would be a kernel a segment
        steps = iter(torch.tensor(ages, dtype=torch.float32, device=device).unbind())
        for index in changed:
            for segment, rows, start, stop in self._segments[index]:
                self.adamw.state[segment] = {
                    "step": next(steps),
                    "exp_avg": rows.exp_avg[start:stop],
                    "exp_avg_sq": rows.exp_avg_sq[start:stop],
                }
        self.adamw.param_groups[0]["params"] = [
            segment for segments in self._segments for segment, *_ in segments
        ]

    def before_change(self, changed: list[int]) -> None:
        for index in changed:
            for segment, rows, start, stop in self._segments[index]:
                self.adamw.state.pop(segment, None)
                age = rows.ages[start] + self._steps_since[index]
                rows.ages[start:stop] = [age] * (stop - start)
            self._segments[index] = []
            self._steps_since[index] = 0

    def forget_moments(self, indices: list[int]) -> None:
        self.before_change(indices)
        for index in indices:
            for rows in (self.adapters[index].a, self.adapters[index].b):
                rows.exp_avg.zero_()
                rows.exp_avg_sq.zero_()
                rows.ages = [0] * len(rows.ages)
        self.follow(indices)

    def applied(self) -> None:
        self._steps_since = [steps + 1 for steps in self._steps_since]

    def ages(self, index: int) -> list[int]:
        adapter = self.adapters[index]
        ages = adapter.a.ages[: adapter.filled]
        return [
            age + (self._steps_since[index] if row < adapter.rank else 0)
            for row, age in enumerate(ages)
        ]

    def fresh(self, index: int) -> list[tuple[int, int]]:
        adapter = self.adapters[index]
        steps = self._steps_since[index]
        return [
            (start, stop)
            for _, rows, start, stop in self._segments[index]
            if rows is adapter.a and rows.ages[start] + steps == 0
        ]


def _runs(adapter: Adapter) -> Iterator[tuple[nn.Parameter, Rows, int, int]]:
    """The active rows of both factors as segments of equal age."""
    for rows in (adapter.a, adapter.b):
        start = 0
        for _, run in groupby(rows.ages[: adapter.rank]):
            stop = start + len(list(run))
            yield nn.Parameter(rows.values[start:stop]), rows, start, stop
            start = stop
