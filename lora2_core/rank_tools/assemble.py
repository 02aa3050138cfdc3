"""Cuts components, a few at a time, and puts what is left into a new adapter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..files.adapter_file import LoraState
from ..files.layout import survives_fp16
from ..files.size import overhead
from ..files.stored import Stored
from ..layers.parallel import in_order
from .adapters import check_size
from .carried import Carried
from .cut import Cut
from .metadata import Described
from .outcome import Outcome, Row, put
from .split import Split, split


@dataclass(frozen=True)
class Part:
    """A component before the cut. stored: names and shape for the result. rank: its rows. load: its
    (up [m, r], down [r, n]) in fp32, read anew each time. what: it and whose it is, for a message.
    split: its directions, if they are known already."""

    name: str
    stored: Stored
    rank: int
    load: Callable[[], tuple[Tensor, Tensor]]
    what: str
    split: Split | None = None

    def directions(self, how: str) -> Split:
        return self.split or split(*self.load(), how, self.what)


def assemble(
    parts: Sequence[Part],
    cut: Cut,
    described: Described,
    dtype: torch.dtype,
    saved_as: torch.dtype,
    on_component: Callable[[int, int], None] | None = None,
    carried: Carried | None = None,
) -> Outcome:
    """The new adapter, its factors in `dtype` where that holds them; a budget counts in `saved_as`.

    carried: what lies beside the components.

    For a budget every component is factorised twice: once to learn where the energy is, once to
    cut. Keeping all factors would take the memory of the whole.
    """
    carried = carried or Carried()
    if cut.keeps_all:
        check_size((part.stored, part.rank) for part in parts)
    total = len(parts) * (2 if cut.needs_all else 1)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if on_component is not None:
            on_component(done, total)

    ranks: list[int] | None = None
    if cut.needs_all:
        energies = []
        for found in in_order(lambda part: part.directions(cut.how).energies, parts):
            energies.append(found)
            tick()
        costs = [saved_as.itemsize * _width(part.stored) for part in parts]
        highest = {
            part.name: (part.stored.shape, len(found))
            for part, found in zip(parts, energies, strict=True)
        }
        fixed = overhead(highest, described.metadata, carried.sizes(saved_as))
        ranks = cut.ranks_of(energies, costs, fixed)

    def work(one: tuple[Part, int | None]) -> tuple[float, float, Tensor, Tensor]:
        whole, share, (up, down) = _kept(one[0], cut, one[1])
        return whole, share, *_narrowed(up, down, dtype, one[0].what)

    state, rows = LoraState(None, described.metadata), []
    given = zip(parts, ranks or [None] * len(parts), strict=True)
    for part, (whole, share, up, down) in zip(parts, in_order(work, given), strict=True):
        put(state, part.name, part.stored, up, down)
        rows.append(Row(part.name, part.rank, down.shape[0], whole, share))
        tick()
    state.update({key: load() for key, load in carried.tensors.items()})
    return Outcome(state, rows, described.left_out, str(carried))


def _kept(part: Part, cut: Cut, rank: int | None) -> tuple[float, float, tuple[Tensor, Tensor]]:
    """(energy before, share kept, factors kept); rank: given by a budget, or None."""
    if cut.keeps_all:
        up, down = part.load()
        if part.rank <= min(up.shape[0], down.shape[1]):
            return 1.0, 1.0, (up, down)
        found = split(up, down, "svd", part.what)  # more rows than dimensions say nothing more
    else:
        found = part.directions(cut.how)
    rank = cut.rank_of(found.energies, found.noise) if rank is None else rank
    whole = float(found.energies.sum())
    share = float(found.energies[:rank].sum()) / whole if whole > 0 else 1.0
    return whole, share, found.kept(rank)


def _narrowed(up: Tensor, down: Tensor, dtype: torch.dtype, what: str) -> tuple[Tensor, Tensor]:
    """In `dtype`, but in fp32 where fp16 would lose numbers that its writing can still save, by
    sharing sizes (layout). Raises LoRA2Error for what fp32 does not hold.
    """
    if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
        raise LoRA2Error(
            f"the factors of {what} come out beyond the range of fp32; give it a smaller weight"
        )
    if dtype == torch.float16 and not (survives_fp16(up) and survives_fp16(down)):
        return up, down
    return up.to(dtype), down.to(dtype)


def _width(stored: Stored) -> int:
    """Parameters a unit of rank, m + n."""
    return stored.shape[0] + prod(stored.shape[1:])
