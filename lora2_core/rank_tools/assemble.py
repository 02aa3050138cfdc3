"""Cuts components one after the other, and puts what is left into a new adapter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..adapter_file import LoraState
from ..file_header import TensorInfo, encode_header
from ..file_names import Stored
from .cut import Cut, Split
from .outcome import Outcome, Row, put

_HASHES = 400  # bytes that writing adds to the metadata: two hashes, a title


@dataclass(frozen=True)
class Part:
    """A component before the cut. load: its (up [m, r], down [r, n]) in fp32, read anew each time.
    stored: names and shape for the result."""

    name: str
    stored: Stored
    load: Callable[[], tuple[Tensor, Tensor]]


def assemble(
    parts: Sequence[Part],
    cut: Cut,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
    on_component: Callable[[int, int], None] | None = None,
) -> Outcome:
    """The new adapter. For a budget every component is factorised twice: once to learn where the
    energy is, once to cut; keeping all factors would take the memory of the whole."""
    costs = [dtype.itemsize * _width(part.stored) for part in parts]
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
        for part in parts:
            energies.append(Split(*part.load(), cut.how).energies)
            tick()
        ranks = cut.ranks_of(energies, costs, _overhead(parts, energies, metadata, dtype))
    state, rows = LoraState(None, metadata), []
    for index, part in enumerate(parts):
        up, down = part.load()
        whole = share = 1.0
        if cut.keeps_all and down.shape[0] <= min(up.shape[0], down.shape[1]):
            kept = up, down
        else:  # more rows than the layer has dimensions say nothing more
            split = Split(up, down, "svd" if cut.keeps_all else cut.how)
            rank = cut.rank_of(split.energies) if ranks is None else ranks[index]
            whole = float(split.energies.sum())
            share = float(split.energies[:rank].sum()) / whole if whole > 0 else 1.0
            kept = split.kept(rank)
        put(state, part.name, part.stored, kept[0].to(dtype), kept[1].to(dtype))
        rows.append(Row(part.name, down.shape[0], kept[1].shape[0], whole, share))
        tick()
    return Outcome(state, rows)


def _width(stored: Stored) -> int:
    """Parameters a unit of rank, m + n."""
    return stored.shape[0] + prod(stored.shape[1:])


def _overhead(
    parts: Sequence[Part], energies: Sequence[Tensor], metadata: Mapping[str, str], dtype
) -> int:
    """Bytes of the file beside the factors, at the most: header and alphas."""
    tensors, end = {}, 0
    for part, found in zip(parts, energies, strict=True):
        rank, shape = len(found), part.stored.shape
        for key, size in (
            (f"{part.name}.alpha", ()),
            (f"{part.name}.lora_down.weight", (rank, *shape[1:])),
            (f"{part.name}.lora_up.weight", (shape[0], rank, *(1 for _ in shape[2:]))),
        ):
            start, end = end, end + prod(size) * 4
            tensors[key] = TensorInfo("BF16", size, start, end)
    return len(encode_header(tensors, dict(metadata))) + 4 * len(parts) + _HASHES
