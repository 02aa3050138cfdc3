"""One adapted layer: ΔW = B Λ A, with a rank that can grow and shrink [LoRA², eq. 10].

Both factors are kept row-major with one row a unit of rank (B transposed), so that the active
part is a contiguous prefix: a component at rank 3 multiplies 3 rows, and the optimiser sees 3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# by a half at most, so that a rank which outgrows its bucket does not double its memory
BUCKETS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def capacity_for(rank: int) -> int:
    """Rows to allocate for `rank`: the smallest bucket that holds it."""
    return next((size for size in BUCKETS if size >= rank), rank)


@dataclass
class Rows:
    """One factor with the Adam state of its rows.

    values, exp_avg, exp_avg_sq: [capacity, k], fp32. ages: how many updates each row has had;
    a row that joins late must start its bias correction at 1, or it moves several times too far.
    Where another optimiser keeps its own state, the moments are [capacity, 0].
    """

    values: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    ages: list[int]
    active: nn.Parameter = field(init=False)  # the first `rank` rows: a leaf on the same memory

    @classmethod
    def empty(cls, capacity: int, width: int, device: torch.device, moments: bool = True) -> "Rows":
        kept = width if moments else 0
        blank = [torch.zeros(capacity, columns, device=device) for columns in (width, kept, kept)]
        return cls(*blank, ages=[0] * capacity)

    def activate(self, rank: int) -> None:
        self.active = nn.Parameter(self.values[:rank])

    def reallocate(self, capacity: int) -> None:
        """Moves to another capacity; surviving rows keep values, moments and age."""
        kept = min(capacity, len(self.ages))
        for name in ("values", "exp_avg", "exp_avg_sq"):
            old = getattr(self, name)
            new = torch.zeros(capacity, old.shape[1], device=old.device, dtype=old.dtype)
            new[:kept] = old[:kept]
            setattr(self, name, new)
        self.ages = self.ages[:kept] + [0] * (capacity - kept)


class Adapter:
    """The low-rank update of one frozen layer.

    a: rows [capacity, n]; b: rows [capacity, m] (B transposed); n counts inputs times kernel
    for a convolution. `rank` rows are active. Rows between `rank` and `filled` are dormant: they
    keep their values, so that growing back restores ΔW bit for bit. `scale` is the diagonal of Λ
    ([rank], fp32, set anew before each forward pass) or None for plain LoRA. `half` is (Λ A, B) in
    half precision where those are made for all adapters at once (half.half_factors). `tap` is what
    A x goes through, with the axis that its rows are on (effect.moments), or None. moments: whether
    Adam's are kept with the rows.
    """

    def __init__(self, name: str, layer: nn.Module, device: torch.device, moments: bool = True):
        self.name = name
        self.layer = layer
        weight = layer.weight
        self.out_features = weight.shape[0]
        self.in_shape = tuple(weight.shape[1:])
        self.in_features = weight[0].numel()
        self.max_rank = min(self.out_features, self.in_features)
        self.device = device
        self.moments = moments
        self.rank = 0
        self.filled = 0
        self.idle_steps = 0
        self.scale: Tensor | None = None
        self.half: tuple[Tensor, Tensor] | None = None
        self.tap: Callable[[Tensor, int], Tensor] | None = None
        self.a = Rows.empty(0, self.in_features, device, moments)
        self.b = Rows.empty(0, self.out_features, device, moments)

    @property
    def capacity(self) -> int:
        return len(self.a.ages)

    def set_rank(self, rank: int, new_a: Tensor | None = None, new_b: Tensor | None = None) -> None:
        """Makes the first `rank` rows active.

        Rows beyond `filled` are taken from new_a [count, n] and new_b [count, m], where
        count = rank − filled; the other rows come back as they were left.
        """
        if rank > self.capacity:
            self._reallocate(capacity_for(rank))
        with torch.no_grad():
            if rank > self.filled:
                self.a.values[self.filled : rank] = new_a
                self.b.values[self.filled : rank] = new_b
                self.filled = rank
        self.rank = rank
        self.a.activate(rank)
        self.b.activate(rank)

    def begin(self, a: Tensor, b: Tensor) -> None:
        """Forgets all rows, and has these: a [rank, n], b [rank, m]."""
        self.filled = 0
        self._reallocate(0)
        self.set_rank(len(a), a, b)

    def give_back(self, patience: int) -> bool:
        """Frees memory once the rank stayed at a quarter of the capacity for `patience` calls.

        Returns True if the factors moved. Dormant rows that no longer fit are forgotten.
        """
        small = self.rank * 4 <= self.capacity and self.capacity > BUCKETS[0]
        self.idle_steps = self.idle_steps + 1 if small else 0
        if not small or self.idle_steps <= patience:
            return False
        self._reallocate(capacity_for(self.rank))
        self.filled = min(self.filled, self.capacity)
        self.idle_steps = 0
        self.a.activate(self.rank)
        self.b.activate(self.rank)
        return True

    def _reallocate(self, capacity: int) -> None:
        self.a.reallocate(capacity)
        self.b.reallocate(capacity)

    def scaled_a(self) -> Tensor:
        """Λ A [rank, n] in fp32: raw rows reach a std of 30 and would overflow fp16 if cast."""
        return self.a.active if self.scale is None else self.scale[:, None] * self.a.active

    def tensors(self) -> dict[str, Tensor]:
        """What is in memory of both factors, dormant rows included; see `restore`."""
        return {
            f"{side}.{name}": getattr(rows, name)[: self.filled]
            for side, rows in (("a", self.a), ("b", self.b))
            for name in ("values", "exp_avg", "exp_avg_sq")
        }

    def restore(
        self, tensors: Mapping[str, Tensor], ages: list[int], rank: int, capacity: int, idle: int
    ) -> None:
        """The state that `tensors` and the numbers were taken from; ages: one a filled row."""
        self.a = Rows.empty(capacity, self.in_features, self.device, self.moments)
        self.b = Rows.empty(capacity, self.out_features, self.device, self.moments)
        self.filled, self.idle_steps = len(ages), idle
        for key, tensor in tensors.items():
            side, _, name = key.partition(".")
            getattr(getattr(self, side), name)[: self.filled] = tensor
        for rows in (self.a, self.b):
            rows.ages[: self.filled] = ages
        self.set_rank(rank)

    def delta(self, x: Tensor) -> Tensor:
        """ΔW x, for x as the layer gets it (…, n) or (b, c, h, w); in x's dtype or autocast's."""
        down, up = self.half or (self.scaled_a(), self.b.active)
        if not torch.is_autocast_enabled(x.device.type):
            down, up = down.to(x.dtype), up.to(x.dtype)
        if x.ndim == 4 and len(self.in_shape) == 3:
            layer = self.layer
            down = down.view(-1, *self.in_shape)
            hidden = F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
            return F.conv2d(self._tapped(hidden, 1), up.t()[:, :, None, None])
        return F.linear(self._tapped(F.linear(x, down), -1), up.t())

    def _tapped(self, hidden: Tensor, axis: int) -> Tensor:
        return hidden if self.tap is None else self.tap(hidden, axis)

    def folded(self) -> tuple[Tensor, Tensor]:
        """(down [rank, n…], up [rank → m, rank…]) with Λ folded in, fp32 on the CPU."""
        down = self.scaled_a().detach().cpu().clone().view(self.rank, *self.in_shape)
        up = self.b.active.detach().t().cpu().contiguous().clone()
        return down, up.view(self.out_features, self.rank, *(1 for _ in self.in_shape[1:]))
