"""Plain LoRA at a fixed rank with alpha = rank: the baseline of the LoRA² paper."""

import torch
from torch import Tensor

from ..adapter import Adapter
from ..config import TrainConfig
from ..optimizer import RowAdamW


class PlainLoRA:
    """ΔW = B A; A ~ U(±1/√n) as in peft and kohya, B = 0."""

    uses_entropy = False

    def __init__(self, config: TrainConfig, adapters: list[Adapter]):
        self.rank = config.r_init
        self.adapters = adapters
        self.rho = None

    def start(self, generator: torch.Generator) -> None:
        """Gives every adapter its rank and first rows."""
        for adapter in self.adapters:
            rank = min(self.rank, adapter.max_rank)
            bound = adapter.in_features**-0.5
            a = torch.rand(rank, adapter.in_features, generator=generator)
            adapter.set_rank(rank, a * (2 * bound) - bound, torch.zeros(rank, adapter.out_features))

    def set_scales(self) -> None:
        """No Λ."""

    def penalty(self) -> Tensor | None:
        """No rank term in the loss."""
        return None

    def before_step(self) -> None:
        """Nothing to remember."""

    def after_step(self, optimizer: RowAdamW, generator: torch.Generator, moving: bool) -> None:
        """Ranks are fixed."""

    def nus(self) -> list[float | None]:
        """No ν."""
        return [None] * len(self.adapters)
