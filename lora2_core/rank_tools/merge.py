"""Several adapters as one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..files.module_names import attention_kind
from .adapters import Adapter, together
from .assemble import Part, assemble
from .blocks import BlockStrengths
from .carried import of_several
from .cut import Cut
from .metadata import of_merged
from .outcome import Outcome


@dataclass(frozen=True)
class Ingredient:
    """An adapter and how much of it goes in.

    weight: of all of it. self_attention, cross_attention: further factors of those projections.
    blocks: a further factor for each block of the UNet. Raises LoRA2Error for a weight that is
    negative, NaN or infinite.
    """

    adapter: Adapter
    weight: float = 1.0
    self_attention: float = 1.0
    cross_attention: float = 1.0
    blocks: BlockStrengths = field(default_factory=BlockStrengths)

    def __post_init__(self):
        for name in ("weight", "self_attention", "cross_attention"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise LoRA2Error(
                    f"{name} of {self.adapter.name} is {value}; give a number of 0 or more"
                )

    def weight_of(self, component: str) -> float:
        factors = {"self": self.self_attention, "cross": self.cross_attention}
        factor = factors.get(attention_kind(component) or "", 1.0) * self.blocks.of(component)
        return self.weight * factor


def merge(
    ingredients: Sequence[Ingredient],
    cut: Cut | None = None,
    *,
    overlap: bool = False,
    dtype: torch.dtype = torch.float32,
    saved_as: torch.dtype | None = None,
    on_component: Callable[[int, int], None] | None = None,
) -> Outcome:
    """ΔW = Σ wᵢ ΔWᵢ: the factors are stacked, which is exact, and then cut.

    A component that only some have is kept as it is there. overlap: keep only what all have in
    the same shape, which is what adapters of different base models can share. dtype, saved_as,
    on_component: as in compress. Raises LoRA2Error
    for an empty list, different base models, and shapes of one component that differ.
    """
    if not ingredients:
        raise LoRA2Error("there is nothing to merge; give at least one adapter")
    cut = cut or Cut()
    adapters = together([ingredient.adapter for ingredient in ingredients])
    ingredients = [
        replace(one, adapter=adapter) for one, adapter in zip(ingredients, adapters, strict=True)
    ]
    names = list(dict.fromkeys(name for adapter in adapters for name in adapter.components))
    if overlap:
        names = [name for name in names if _shared(name, adapters)]
        if not names:
            listed = ", ".join(adapter.name for adapter in adapters)
            raise LoRA2Error(f"{listed} have no component in common; merge adapters of one model")
    else:
        _check_architectures(adapters)
    parts = [_part(name, ingredients, cut.how) for name in names]
    carried = of_several(ingredients, overlap)
    return assemble(
        parts, cut, of_merged(ingredients), dtype, saved_as or dtype, on_component, carried
    )


def _part(name: str, ingredients: Sequence[Ingredient], how: str) -> Part:
    having = [one for one in ingredients if name in one.adapter.components]
    first = having[0].adapter.components[name]
    for other in having[1:]:
        found = other.adapter.components[name].shape
        if found != first.shape:
            raise LoRA2Error(
                f"{name} changes a layer of shape {_sizes(first.shape)} in "
                f"{having[0].adapter.name}, but {_sizes(found)} in {other.adapter.name}; merge "
                "adapters of one model, or keep the overlap alone"
            )

    def load() -> tuple[Tensor, Tensor]:
        loaded = [one.adapter.factors(name) for one in having]
        weights = [one.weight_of(name) for one in having]
        up = torch.cat([w * up for w, (up, _) in zip(weights, loaded, strict=True)], 1)
        down = torch.cat([down for _, down in loaded])
        if how == "prefix":
            order = _in_turns([down.shape[0] for _, down in loaded])
            up, down = up[:, order], down[order]
        return up, down

    known = None
    if len(having) == 1:
        known = having[0].adapter.known(name, how)
        known = known and known.weighted(having[0].weight_of(name))
    rank = sum(one.adapter.components[name].rank for one in having)
    return Part(name, first, rank, load, known)


def _in_turns(ranks: Sequence[int]) -> list[int]:
    """Row numbers of the stack so that every prefix holds each adapter's own, in proportion.

    Not by Λ: the norms of A and B are free, so that it says nothing between adapters.
    """
    places, start = [], 0
    for adapter, rank in enumerate(ranks):
        places += [((row + 0.5) / rank, adapter, start + row) for row in range(rank)]
        start += rank
    return [row for *_, row in sorted(places)]


def _shared(name: str, adapters: Sequence[Adapter]) -> bool:
    if not all(name in adapter.components for adapter in adapters):
        return False
    return len({adapter.components[name].shape for adapter in adapters}) == 1


def _check_architectures(adapters: Sequence[Adapter]) -> None:
    known = [adapter.families for adapter in adapters if adapter.families]
    if known and not reduce(frozenset.__and__, known):
        listed = ", ".join(f"{a.name} ({_models(a)})" for a in adapters)
        raise LoRA2Error(
            f"the adapters are for different models: {listed}; merge adapters of one model, or "
            "keep the overlap alone"
        )


def _models(adapter: Adapter) -> str:
    return " or ".join(sorted(adapter.families)) or "unknown"


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
