"""Several adapters as one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..files.layer_shapes import shared_shape
from ..files.module_names import attention_kind
from ..files.stored import Stored
from .adapters import Adapter, together
from .assemble import Part, assemble
from .blocks import BlockStrengths
from .carried import goes_in, of_several
from .cut import Cut
from .metadata import of_merged
from .outcome import Outcome
from .scaling import scaled


@dataclass(frozen=True)
class Ingredient:
    """An adapter and how much of it goes in.

    weight: of all of it; below 0 what it does is taken away. self_attention, cross_attention:
    further factors of those projections. blocks: a further factor for each block of the UNet.
    Raises LoRA2Error for a weight that is NaN or infinite.
    """

    adapter: Adapter
    weight: float = 1.0
    self_attention: float = 1.0
    cross_attention: float = 1.0
    blocks: BlockStrengths = field(default_factory=BlockStrengths)

    def __post_init__(self):
        for name in ("weight", "self_attention", "cross_attention"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise LoRA2Error(f"{name} of {self.adapter.name} is {value}; give a finite number")

    def weight_of(self, component: str) -> float:
        factors = {"self": self.self_attention, "cross": self.cross_attention}
        factor = factors.get(attention_kind(component) or "", 1.0) * self.blocks.of(component)
        return self.weight * factor

    def adds(self, component: str) -> bool:
        """Whether it has the component, with a weight that is not 0."""
        return component in self.adapter.components and self.weight_of(component) != 0

    def __str__(self) -> str:
        text = f"{self.adapter.name} × {self.weight:g}"
        shares = {"self-attention": self.self_attention, "cross-attention": self.cross_attention}
        more = [f"{name} {share:g}" for name, share in shares.items() if share != 1]
        more += [str(self.blocks)] if self.blocks.entries else []
        return f"{text} ({', '.join(more)})" if more else text


class NothingLeft(LoRA2Error):
    """Every weight of a merge is 0."""


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

    A component that only some have is kept as it is there. One whose weights are all 0 is left
    out, and so is an adapter of which nothing goes in, as if it were not given. overlap: keep only
    what all have in the same shape, which is what adapters of different base models can share.
    dtype, saved_as, on_component: as in compress. Raises LoRA2Error for an empty list, different
    base models, and shapes of one component that differ, and NothingLeft if all weights are 0.
    """
    if not ingredients:
        raise LoRA2Error("there is nothing to merge; give at least one adapter")
    cut = cut or Cut()
    ingredients = _contributing(ingredients)
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
    names = [name for name in names if any(one.adds(name) for one in ingredients)]
    if not names:
        raise _nothing(ingredients)
    parts = [_part(name, ingredients, cut.how) for name in names]
    carried = of_several(ingredients, overlap)
    return assemble(
        parts, cut, of_merged(ingredients), dtype, saved_as or dtype, on_component, carried
    )


def _contributing(ingredients: Sequence[Ingredient]) -> list[Ingredient]:
    found = [
        one for one in ingredients if any(map(one.adds, one.adapter.components)) or goes_in(one)
    ]
    if not found:
        raise _nothing(ingredients)
    return found


def _nothing(ingredients: Sequence[Ingredient]) -> NothingLeft:
    listed = ", ".join(map(str, ingredients))
    return NothingLeft(
        f"nothing is left to merge: every weight is 0 ({listed}); give one that is not"
    )


def _part(name: str, ingredients: Sequence[Ingredient], how: str) -> Part:
    having = [one for one in ingredients if one.adds(name)]
    stored = _common(name, [one.adapter for one in having])

    def load() -> tuple[Tensor, Tensor]:
        loaded = [_weighted(one, name) for one in having]
        up = torch.cat([up for up, _ in loaded], 1)
        down = torch.cat([down for _, down in loaded])
        if how == "prefix":
            order = _in_turns([down.shape[0] for _, down in loaded])
            up, down = up[:, order], down[order]
        return up, down

    known, effect = None, None
    if len(having) == 1:
        weight = having[0].weight_of(name)
        known = having[0].adapter.known(name, how)
        known = known and known.weighted(weight)
        effect = having[0].adapter.effects.get(name)
        effect = effect and effect._replace(effects=effect.effects * weight**2)
    rank = sum(one.adapter.components[name].rank for one in having)
    what = f"{name} of {', '.join(one.adapter.name for one in having)}"
    return Part(name, stored, rank, load, what, known, effect)


def _weighted(one: Ingredient, name: str) -> tuple[Tensor, Tensor]:
    """Its factors of that component, the weight in up."""
    what = f"{name} of {one.adapter.name}"
    return scaled(*one.adapter.factors(name), one.weight_of(name), what)


def _common(name: str, having: Sequence[Adapter]) -> Stored:
    """The first's component, in the shape of the layer; refuses those that differ in size."""
    first = having[0].components[name]
    for at, other in enumerate(having):
        found = other.components[name].shape
        if shared_shape(one.components[name].shape for one in having[: at + 1]) is None:
            raise LoRA2Error(
                f"{name} changes a layer of shape {_sizes(first.shape)} in {having[0].name}, but "
                f"{_sizes(found)} in {other.name}; merge adapters of one model, or keep the "
                "overlap alone"
            )
    return first._replace(shape=shared_shape(one.components[name].shape for one in having))


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
    return shared_shape(adapter.components[name].shape for adapter in adapters) is not None


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
