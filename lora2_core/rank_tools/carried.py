"""What lies beside the components, in the result of a rank tool: carried along, or added up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..files.beside import EMBEDDING, UNKNOWN, Extra, said
from ..files.header import shown
from .adapters import Adapter

_WIDEST = 8  # bytes of a whole number


@dataclass(frozen=True)
class Carried:
    """tensors: key in the result → what reads it. extras: the same tensors in the input.
    left_out: those that the result has not."""

    tensors: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    extras: Mapping[str, Extra] = field(default_factory=dict)
    left_out: Sequence[Extra] = ()

    def sizes(self, saved_as: torch.dtype) -> dict[str, tuple[tuple[int, ...], int]]:
        """For files.size.overhead."""
        wide = (".alpha", ".reshape_weight")
        return {
            key: (extra.shape, _WIDEST)
            if extra.kind is UNKNOWN or key.endswith(wide)
            else (extra.shape, saved_as.itemsize)
            for key, extra in self.extras.items()
        }

    def __str__(self) -> str:
        """ "", or a line of its own for what is carried, and one for what is left out."""
        text = f"\nbeside: {said(self.extras.values())}" if said(self.extras.values()) else ""
        return text + (f"\nleft out: {said(self.left_out)}" if said(self.left_out) else "")


def of_one(adapter: Adapter) -> Carried:
    """All of an adapter's, untouched."""
    tensors = {key: lambda key=key: adapter.beside(key) for key in adapter.extras}
    return Carried(tensors, adapter.extras)


def of_several(ingredients: Sequence, overlap: bool) -> Carried:
    """Of a merge: Σ wᵢ Dᵢ of what adds up; the rest as it is where nothing else changes its layer.

    ingredients: merge.Ingredient. overlap: keep only what adds up and all have. A weight of 0
    leaves a tensor out. Raises LoRA2Error, naming the tensor, for what cannot be merged.
    """
    given: dict[str, list[tuple]] = {}
    for one in ingredients:
        for key, extra in one.adapter.extras.items():
            weight = _weight(one, extra)
            if weight:
                given.setdefault(_sum_key(key, extra), []).append((one, key, extra, weight))
    tensors, extras, left_out = {}, {}, []
    several = len(ingredients) > 1
    for key, parts in given.items():
        extra = parts[0][2]
        if several and extra.kind is UNKNOWN:
            left_out += [part[2] for part in parts]
            continue
        if not extra.kind.adds:
            _check_alone(parts, ingredients)
        if several and overlap and not _shared(parts, ingredients):
            left_out += [part[2] for part in parts]
            continue
        if extra.kind.adds:
            _check_shapes(key, parts)
        tensors[key] = lambda parts=parts: _result(parts)
        extras[key] = extra
    return Carried(tensors, extras, left_out)


def goes_in(one) -> bool:
    """Whether a merge.Ingredient has anything beside its components that its weights leave."""
    return any(_weight(one, extra) for extra in one.adapter.extras.values())


def _shared(parts: Sequence[tuple], ingredients: Sequence) -> bool:
    return len(parts) == len(ingredients) and len({part[2].shape for part in parts}) == 1


def _weight(one, extra: Extra) -> float:
    layer = one.adapter.layers[extra.key]
    return one.weight_of(layer) if layer else one.weight


def _sum_key(key: str, extra: Extra) -> str:
    """LyCORIS' names of norms are as good as the host's, and both may meet in a merge."""
    if not extra.kind.adds:
        return key
    for old, new in ((".w_norm", ".diff"), (".b_norm", ".diff_b")):
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def _check_shapes(key: str, parts: Sequence[tuple]) -> None:
    first = parts[0]
    for other in parts[1:]:
        if other[2].shape != first[2].shape:
            raise LoRA2Error(
                f"{shown(key)} has shape {_sizes(first[2].shape)} in {first[0].adapter.name}, but "
                f"{_sizes(other[2].shape)} in {other[0].adapter.name}; merge adapters of one "
                "model, or keep the overlap alone"
            )


def _check_alone(parts: Sequence[tuple], ingredients: Sequence) -> None:
    """Refuses what does not add up where it would have to."""
    one, _, extra, weight = parts[0]
    what = f"{shown(extra.key)} of {one.adapter.name} ({extra.kind.one})"
    if len(parts) > 1:
        raise LoRA2Error(
            f"{what} is in {parts[1][0].adapter.name} too, and the two do not add up; "
            + (
                "rename one, or keep them apart"
                if extra.kind is EMBEDDING
                else "load both with the host's own loader, one after the other"
            )
        )
    if extra.kind in (EMBEDDING, UNKNOWN):
        return
    layer = one.adapter.layers[extra.key]
    other = next((x for x in ingredients if x is not one and _changes(x, layer)), None)
    if other is not None:
        raise LoRA2Error(
            f"{what} does not add up with what {other.adapter.name} does to the same layer; load "
            "both with the host's own loader, one after the other"
        )
    if weight != 1:
        raise LoRA2Error(
            f"{what} cannot be scaled by {weight:g}; give its layer weight 1 or 0, or set the "
            "strength where the result is loaded"
        )


def _changes(one, layer: str) -> bool:
    """Whether an ingredient changes that layer's weight."""
    adapter = one.adapter
    if not one.weight_of(layer):
        return False
    return layer in adapter.components or any(
        extra.on_weight and adapter.layers[extra.key] == layer for extra in adapter.extras.values()
    )


def _result(parts: Sequence[tuple]) -> Tensor:
    one, key, extra, weight = parts[0]
    if not extra.kind.adds or (len(parts) == 1 and weight == 1):
        return one.adapter.beside(key)
    return sum(weight * one.adapter.beside(key).float() for one, key, _, weight in parts)


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
