"""An adapter of unequal ranks for tools that demand equal ones."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..files.adapter_file import load_factors
from ..files.alphas import settings_of
from .adapters import Adapter, check_size
from .carried import of_one
from .metadata import of_expanded
from .outcome import KOHYA, Row

_HIGHEST = 20480


class Expanded(Mapping[str, Tensor]):
    """The adapter with every component padded by zeros to one rank; computed when asked for.

    Stored rows are bit-equal; alpha grows with the rank, so that ΔW stays. metadata: of the new
    file. left_out, measure: as an Outcome's. rows: rank before and after. retained: all of the
    energy.
    """

    retained = 1.0
    measure = "energy"

    def __init__(self, adapter: Adapter, rank: int):
        check_size((stored, rank) for stored in adapter.components.values())
        self.metadata, self.left_out = of_expanded(adapter)
        self.rows = [
            Row(name, stored.rank, rank, 1.0, 1.0) for name, stored in adapter.components.items()
        ]
        self._adapter, self._rank = adapter, rank
        self._settings = settings_of(adapter.state)
        carried = of_one(adapter)
        self.beside = str(carried)
        self._beside = carried.tensors
        self._keys: dict[str, tuple[str, str]] = {}
        for name, stored in adapter.components.items():
            kohya = name.startswith(KOHYA)
            self._keys[f"{name}.lora_down.weight" if kohya else stored.down] = name, "down"
            self._keys[f"{name}.lora_up.weight" if kohya else stored.up] = name, "up"
            if kohya:
                self._keys[f"{name}.alpha"] = name, "alpha"

    def __getitem__(self, key: str) -> Tensor:
        if key in self._beside:
            return self._beside[key]()
        name, role = self._keys[key]
        stored = self._adapter.components[name]
        factors = load_factors(self._adapter.state, stored, self._settings)
        if role == "down":
            return _padded(factors.down, 0, self._rank).reshape(self._rank, *stored.shape[1:])
        if role == "up":
            up = _padded(factors.up, 1, self._rank)
            up = up.reshape(len(up), self._rank, *(1 for _ in stored.shape[2:]))
            if name.startswith(KOHYA) or factors.scale == 1:
                return up
            # in fp32, so that it is rounded when it is stored and not before
            return self._finite(name, up.float() * factors.scale)
        # without an alpha the scale is 1
        alpha = factors.rank if factors.alpha is None else factors.alpha
        alpha = torch.tensor(alpha * self._rank / factors.rank, dtype=torch.float32)
        return self._finite(name, alpha)

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        if not torch.isfinite(tensor).all():
            raise LoRA2Error(
                f"{name} of {self._adapter.name} holds NaN or infinity, or its alpha is so large "
                "that it passes the range of fp32; save that LoRA again"
            )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter((*self._keys, *self._beside))

    def __len__(self) -> int:
        return len(self._keys) + len(self._beside)


def _padded(factor: Tensor, axis: int, rank: int) -> Tensor:
    """With zeros up to `rank` along an axis; what torch cannot compute with (fp8) in fp32."""
    if factor.element_size() < 2:
        factor = factor.float()
    shape = list(factor.shape)
    shape[axis] = rank - shape[axis]
    return torch.cat([factor, factor.new_zeros(shape)], axis)


def highest_rank(adapter: Adapter) -> int:
    return max(stored.rank for stored in adapter.components.values())


def expand(adapter: Adapter, rank: int | None = None) -> Expanded:
    """Every component at `rank`, or at the adapter's largest.

    Adding such padded factors of two adapters element by element is not their sum: that holds
    cross terms B₁A₂ + B₂A₁. Merge them instead. Raises LoRA2Error for a rank below one of the
    adapter's, or beyond any layer's size.
    """
    highest = highest_rank(adapter)
    if rank is None:
        return Expanded(adapter, highest)
    if rank < highest:
        raise LoRA2Error(
            f"rank is {rank}, but {adapter.name} has components of rank {highest}; give at least "
            "that, or compress the adapter"
        )
    if rank > _HIGHEST:
        raise LoRA2Error(f"rank is {rank}; give at most {_HIGHEST}, no layer has more dimensions")
    return Expanded(adapter, rank)
