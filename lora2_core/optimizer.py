"""Optimisers over rows that come and go, and the first of them: torch's AdamW.

Rows of one age form a segment, and each segment is one parameter of the optimiser: new rows get
their own step count, dormant rows get no update at all, not even from momentum or decay.
"""

from collections.abc import Iterator, Mapping
from itertools import groupby

import torch
from torch import Tensor, nn

from .adapter import Adapter, Rows


class RowOptimizer:
    """What every optimiser of rows that come and go has in common.

    adapters: the adapted layers. rho: [L] or None, moved by AdamW in any case. stepped: what a
    loss scaler unscales and steps. segments: of each adapter, runs of active rows of equal age:
    (parameter, its factor, start, stop).
    """

    stepped: torch.optim.Optimizer
    rho_adamw: torch.optim.AdamW

    def __init__(self, adapters: list[Adapter], rho: nn.Parameter | None):
        self.adapters = adapters
        self.rho = rho
        self._segments: list[list[tuple[nn.Parameter, Rows, int, int]]] = [[] for _ in adapters]

    def set_rate(self, learning_rate: float) -> None:
        """The learning rate of A and B from the next step on; ρ keeps its own."""
        raise NotImplementedError

    def before_change(self, changed: list[int]) -> None:
        """Puts the state of these adapters' rows in safety, ahead of a resize."""
        raise NotImplementedError

    def follow(self, changed: list[int]) -> None:
        """Takes up the rows of the adapters whose rank or memory has changed.

        Call before_change with the same indices first.
        """
        raise NotImplementedError

    def forget_moments(self, indices: list[int]) -> None:
        """Starts the optimiser anew for all rows of these adapters."""
        raise NotImplementedError

    def applied(self) -> None:
        """Counts one update; not called when a loss scaler skipped it."""

    def ages(self, index: int) -> list[int]:
        """Updates that each filled row of an adapter has had, up to now."""
        raise NotImplementedError

    def fresh(self, index: int) -> list[tuple[int, int]]:
        """[start, stop) of an adapter's active rows that have had no update yet."""
        raise NotImplementedError

    def extra_state(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and JSON-ready facts beside what the adapters' rows and rho_state hold."""
        return {}, {}

    def restore_extra(self, tensors: Mapping[str, Tensor], facts: Mapping) -> None:
        """Takes up what extra_state gave, after `follow`."""

    def share_gradients(self) -> None:
        """Hands the gradient of each active prefix to the segments it is cut into."""
        for segments in self._segments:
            for segment, rows, start, stop in segments:
                grad = rows.active.grad
                segment.grad = None if grad is None else grad[start:stop]

    def clip(self, max_norm: float) -> Tensor:
        """Clips A and B jointly and ρ apart: dL/dν grows like 1/ν and would eat a joint norm.

        Returns the sum of both norms before clipping, NaN or infinite if any gradient is.
        """
        factors = [segment for segments in self._segments for segment, *_ in segments]
        norm = nn.utils.clip_grad_norm_(factors, max_norm)
        if self.rho is not None and self.rho.grad is not None:
            norm = norm + nn.utils.clip_grad_norm_([self.rho], max_norm)
        return norm

    def zero_grad(self) -> None:
        self.stepped.zero_grad(set_to_none=True)
        for adapter in self.adapters:
            adapter.a.active.grad = adapter.b.active.grad = None

    def stop_momentum(self, where: Tensor) -> None:
        """Forgets the first moment of the ν's selected by the mask [L]."""
        state = self.rho_adamw.state.get(self.rho)
        if state:
            state["exp_avg"].masked_fill_(where, 0.0)

    def rho_state(self) -> dict[str, Tensor]:
        """Adam's step and moments of ρ; empty before its first update."""
        return {} if self.rho is None else dict(self.rho_adamw.state.get(self.rho, {}))

    def restore_rho(self, state: dict[str, Tensor]) -> None:
        """Takes up what rho_state gave."""
        device = self.rho.device
        self.rho_adamw.state[self.rho] = {
            # a fused optimiser wants its step on the device, the others on the CPU
            name: value.to(device if name != "step" or self.rho.is_cuda else "cpu").clone()
            for name, value in state.items()
        }


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
