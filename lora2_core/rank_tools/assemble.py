"""Cuts components, a few at a time, and puts what is left into a new adapter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..effect.measure import Directions
from ..errors import LoRA2Error
from ..files.adapter_file import LoraState
from ..files.effect_note import NOTED_BYTES
from ..files.layout import survives_fp16
from ..files.size import component_bytes, overhead
from ..files.stored import Stored
from ..layers.parallel import in_order
from .adapters import check_size
from .carried import Carried
from .cut import Cut
from .metadata import Described, with_effects
from .outcome import KOHYA, Outcome, Row, put
from .split import Split, split, split_by_effect


@dataclass(frozen=True)
class Part:
    """A component before the cut. stored: names and shape for the result. rank: its rows. load: its
    (up [m, r], down [r, n]) in fp32, read anew each time. what: it and whose it is, for a message.
    split: its directions, if they are known already. effect: those by effect, if that is known."""

    name: str
    stored: Stored
    rank: int
    load: Callable[[], tuple[Tensor, Tensor]]
    what: str
    split: Split | None = None
    effect: Directions | None = None

    def directions(self, how: str) -> Split:
        if self.split is not None:
            return self.split
        if how == "effect":
            return split_by_effect(*self.load(), self.effect)
        return split(*self.load(), how, self.what)

    def energies(self, how: str) -> Tensor:
        """Of its directions; by effect without its factors."""
        if self.split is None and self.effect is not None and how == "effect":
            return self.effect.effects
        return self.directions(how).energies

    def untouched(self, how: str) -> bool:
        """Whether such a cut leaves it whole: by effect, what is not known."""
        return how == "effect" and self.split is None and self.effect is None

    @property
    def key(self) -> str:
        """What the new file calls it."""
        return self.name if self.name.startswith(KOHYA) else self.stored.name


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
    cuttable = [part for part in parts if not part.untouched(cut.how)]
    if not cuttable:
        raise LoRA2Error(
            f"what the directions of {parts[0].what}, … do to the loss is not known; connect a "
            "model with latents and conditioning (on the command line: --model and --images), or "
            "cut by svd"
        )
    total = len(parts) + (len(cuttable) if cut.needs_all else 0)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if on_component is not None:
            on_component(done, total)

    ranks: dict[str, int] = {}
    if cut.needs_all:
        energies = []
        for found in in_order(lambda part: part.energies(cut.how), cuttable):
            energies.append(found)
            tick()
        stays = [part for part in parts if part.untouched(cut.how)]
        found = cut.ranks_of(energies, *_bytes(cuttable, stays, cut, described, carried, saved_as))
        ranks = {part.name: rank for part, rank in zip(cuttable, found, strict=True)}

    def work(part: Part) -> _Kept:
        return _kept(part, cut, ranks.get(part.name), dtype)

    state, rows, effects = LoraState(None, described.metadata), [], {}
    for part, kept in zip(parts, in_order(work, parts), strict=True):
        if kept.rank:
            put(state, part.name, part.stored, kept.up, kept.down)
        if kept.effects is not None:
            effects[part.key] = kept.effects
        rows.append(Row(part.name, part.rank, kept.rank, kept.whole, kept.share))
        tick()
    state.update({key: load() for key, load in carried.tensors.items()})
    if cut.how == "effect":
        gone = {
            part.key: part.stored.shape
            for part, row in zip(parts, rows, strict=True)
            if row.after == 0
        }
        whole = effects if len(effects) == len(parts) else {}
        state.metadata = with_effects(state.metadata, whole, gone)
    measure = "effect" if cut.how == "effect" else "energy"
    return Outcome(state, rows, described.left_out, str(carried), measure)


def _bytes(
    cuttable: Sequence[Part],
    stays: Sequence[Part],
    cut: Cut,
    described: Described,
    carried: Carried,
    saved_as: torch.dtype,
) -> tuple[list[int], int, list[int] | None]:
    """(bytes of a direction of each part that is cut, of the file without any, of each part's names
    where it may be missing), for Cut.ranks_of."""
    size = saved_as.itemsize
    costs = [size * _width(part.stored) for part in cuttable]
    known, certain, firsts = described.metadata, [*cuttable, *stays], None
    if cut.how == "effect":
        costs = [cost + NOTED_BYTES for cost in costs]
        known = with_effects(known, {}, {part.key: part.stored.shape for part in cuttable})
        certain = stays
        firsts = [
            component_bytes(part.name, part.stored.shape, part.rank, part.key) for part in cuttable
        ]
    whole = sum(size * part.rank * _width(part.stored) for part in stays)
    return costs, whole + overhead(_highest(certain), known, carried.sizes(saved_as)), firsts


def _highest(parts: Sequence[Part]) -> dict[str, tuple[tuple[int, ...], int]]:
    return {part.name: (part.stored.shape, part.rank) for part in parts}


class _Kept(NamedTuple):
    """whole: energy, or effect, before. share: of it that is left. effects: of the rows, or None
    where they are not known."""

    whole: float
    share: float
    up: Tensor
    down: Tensor
    effects: Sequence[float] | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def _kept(part: Part, cut: Cut, rank: int | None, dtype: torch.dtype) -> _Kept:
    """rank: given by a budget, or None."""
    untouched = part.untouched(cut.how)
    if (cut.keeps_all and cut.how != "effect") or untouched:
        up, down = part.load()
        if part.rank > min(up.shape[0], down.shape[1]):  # more rows than dimensions say no more
            found = split(up, down, "svd", part.what)
            up, down = found.kept(len(found.energies))
        # an effect that is not known has no part in the whole
        return _Kept(0.0 if untouched else 1.0, 1.0, *_narrowed(up, down, dtype, part.what))
    else:
        found = part.directions(cut.how)
    rank = cut.rank_of(found.energies, found.noise) if rank is None else rank
    whole = float(found.energies.sum())
    share = float(found.energies[:rank].sum()) / whole if whole > 0 else 1.0
    effects = found.energies[:rank].tolist() if cut.how == "effect" else None
    return _Kept(whole, share, *_narrowed(*found.kept(rank), dtype, part.what), effects)


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
