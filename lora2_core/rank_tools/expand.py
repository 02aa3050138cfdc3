"""An adapter of unequal ranks for tools that demand equal ones."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..files.adapter_file import load_factors
from ..files.metadata import read_peft_note
from .adapters import Adapter, check_size
from .carried import of_one
from .metadata import of_expanded
from .outcome import KOHYA, Row

_HIGHEST = 20480


class Expanded(Mapping[str, Tensor]):
    """The adapter with every component padded by zeros to one rank; computed when asked for.

    Stored rows are bit-equal; alpha grows with the rank, so that ΔW stays. metadata: of the new
    file. rows: rank before and after. retained: all of the energy.
    """

    retained = 1.0

    def __init__(self, adapter: Adapter, rank: int):
        check_size((stored, rank) for stored in adapter.components.values())
        self.metadata = of_expanded(adapter)
        self.rows = [
            Row(name, stored.rank, rank, 1.0, 1.0) for name, stored in adapter.components.items()
        ]
        self._adapter, self._rank = adapter, rank
        self._note = read_peft_note(adapter.metadata)
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
        factors = load_factors(self._adapter.state, self._adapter.components[name], self._note)
        missing = self._rank - factors.rank
        if role == "down":
            rows = factors.down.new_zeros(missing, *factors.down.shape[1:])
            return torch.cat([factors.down, rows])
        if role == "up":
            columns = factors.up.new_zeros(factors.up.shape[0], missing, *factors.up.shape[2:])
            up = torch.cat([factors.up, columns], 1)
            plain = name.startswith(KOHYA) or factors.scale == 1
            return up if plain else up.float() * factors.scale
        # without an alpha the scale is 1
        alpha = factors.rank if factors.alpha is None else factors.alpha
        return torch.tensor(alpha * self._rank / factors.rank, dtype=torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._keys, *self._beside))

    def __len__(self) -> int:
        return len(self._keys) + len(self._beside)


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
