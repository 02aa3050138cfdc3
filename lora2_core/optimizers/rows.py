"""What every optimiser of rows that come and go has in common.

Rows of one age form a segment, and each segment is one parameter of the optimiser: new rows get
their own step count, dormant rows get no update at all, not even from momentum or decay.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..layers.adapter import Adapter, Rows


class RowOptimizer:
    """Moves A and B, and ρ by AdamW.

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
