"""A finished adapter, its components under names that all adapters share."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import prod

import torch
from torch import Tensor

from ..effect.measure import Directions
from ..errors import LoRA2Error
from ..files.adapter_file import load_factors
from ..files.alphas import alphas, settings_of
from ..files.beside import Extra, hosted_tensor
from ..files.effect_note import noted_effects
from ..files.header import shown
from ..files.layer_shapes import layer_shape
from ..files.lazy import LazyState, name_of
from ..files.module_names import Named, named
from ..files.stored import Stored, seen, workable
from .outcome import KOHYA
from .scaling import scaled
from .split import Split, split, split_by_effect

_MOST = 2**31  # numbers of factors
_NAMED = 3


@dataclass(frozen=True)
class Adapter:
    """name: for messages and metadata. components: canonical name → where its tensors are.

    extras: canonical key → a tensor beside the components. layers: its key in the file → canonical
    name of its layer.
    families: base models that it can belong to, empty if unknown. assumed: whether its blocks were
    read as SDXL's because nothing told. splits: how of a cut → component → its directions, where
    they are kept in memory. effects: component → its directions by effect, as far as they are
    known: from the file's own note, or measured.
    """

    name: str
    state: Mapping[str, Tensor]
    components: Mapping[str, Stored]
    families: frozenset[str] = frozenset()
    assumed: bool = False
    splits: Mapping[str, Mapping[str, Split]] = field(default_factory=dict)
    extras: Mapping[str, Extra] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    effects: Mapping[str, Directions] = field(default_factory=dict)

    @property
    def architecture(self) -> str | None:
        """The base model, or None if nothing tells it from another."""
        return next(iter(self.families)) if len(self.families) == 1 else None

    @property
    def metadata(self) -> Mapping[str, str]:
        return getattr(self.state, "metadata", {})

    def known(self, component: str, how: str) -> Split | None:
        """A component's directions, if they are kept."""
        return self.splits.get(how, {}).get(component)

    def directions(self, component: str, how: str) -> Split:
        """A component's directions in the order of their keeping; how: one of cut.HOW.

        Raises what `factors` and split.split raise, and KeyError by effect where that is unknown.
        """
        if (known := self.known(component, how)) is not None:
            return known
        if how == "effect":
            return split_by_effect(*self.factors(component), self.effects[component])
        return split(*self.factors(component), how, f"{component} of {self.name}")

    def factors(self, component: str) -> tuple[Tensor, Tensor]:
        """(up [m, r], down [r, n]) in fp32, the scale in up; n is in·k·k for a convolution.

        Raises LoRA2Error, naming the component, for NaN and infinity, for what is beyond fp32
        however its factors share it (scaling.scaled), and for an alpha that cannot be told.
        """
        stored = self.components[component]
        try:
            loaded = load_factors(self.state, stored, settings_of(self.state))
        except LoRA2Error as error:
            raise LoRA2Error(f"{self.name}: {error}") from error
        up, down = loaded.up.flatten(1), loaded.down.flatten(1)
        return scaled(up, down, loaded.scale, f"{component} of {self.name}")

    def beside(self, key: str) -> Tensor:
        """A tensor of `extras`, as it is but for what hosted_tensor says."""
        extra = self.extras[key]
        tensor, stored = self.state[extra.key], self.components.get(self.layers[extra.key])
        if stored is None or (key.endswith(extra.ending) and not extra.kind.adds):
            return tensor
        alpha = alphas(self.state, [stored])[stored.name]
        scale = 1.0 if alpha is None else alpha / stored.rank
        return hosted_tensor(extra, tensor, stored.shape, scale)


def open_adapter(
    source: str | os.PathLike | Mapping[str, Tensor], name: str = "", base: str | None = None
) -> Adapter:
    """From a file, of which the header alone is read now, or from an adapter in memory.

    base: the base model where it is known (module_names.named). Raises LoRA2Error for what
    adapter_file.components refuses.
    """
    if not isinstance(source, Mapping):
        return _adapter(name_of(source, name), LazyState(source), base)
    return _adapter(name or "the adapter on the wire", source, base)


def counted_as(adapter: Adapter, base: str | None) -> Adapter:
    """The same with its blocks counted as the base model's, where nothing in it tells how.

    base: one of families.UNETS' names, or None, which leaves it as it is. Raises LoRA2Error if the
    layers cannot be those of `base`.
    """
    if base is None or not adapter.assumed:
        return adapter
    return open_adapter(adapter.state, adapter.name, base)


def together(adapters: Sequence[Adapter], base: str | None = None) -> list[Adapter]:
    """The same adapters with names that what is known of all of them decides: of one that is known
    for SDXL's, another learns how its own blocks are counted.

    Adapters that contradict each other keep the names they have.
    """
    known = [one.families for one in adapters if one.families]
    if len(adapters) < 2 or (known and not reduce(frozenset.__and__, known)):
        return list(adapters)
    shapes = [_shapes(one.components.values(), one.extras.values()) for one in adapters]
    shared = named(shapes, base)
    if not shared.families and any(one.families for one in adapters):
        return list(adapters)
    return [_renamed(one, shared, at) for at, one in enumerate(adapters)]


def assumptions(adapters: Iterable[Adapter]) -> str:
    """What was taken for granted of them, a line each, "" if nothing was; of several that go
    together, give `together`'s."""
    return "".join(f"{assumed_of(one.name)}\n" for one in adapters if one.assumed)


def unmeasured(adapter: Adapter) -> str:
    """A line on the components of which the effect is not known; "" if all are."""
    missing = [name for name in adapter.components if name not in adapter.effects]
    if not missing or not adapter.effects:
        return ""
    more = ", …" if len(missing) > _NAMED else ""
    return (
        f"note: {len(missing)} of {len(adapter.components)} components "
        f"({', '.join(missing[:_NAMED])}{more}) stay whole: the model has no such layer, or their "
        "effect cannot be measured (DoRA)\n"
    )


def assumed_of(name: str) -> str:
    """That the blocks of this adapter, or of these, were read as SDXL's for want of a sign."""
    return (
        f"note: nothing in {name} tells which base model it is for; its blocks were read as SDXL's "
        "(the command line's --base says otherwise)"
    )


def _renamed(adapter: Adapter, shared: Named, at: int) -> Adapter:
    names = shared.names[at]
    new = {old: names[stored.name] for old, stored in adapter.components.items()}
    return replace(
        adapter,
        components=_shaped(
            ((new[old], stored) for old, stored in adapter.components.items()), shared.families
        ),
        assumed=shared.assumed and adapter.assumed,
        splits={
            how: {new[old]: found for old, found in kept.items()}
            for how, kept in adapter.splits.items()
        },
        effects={new[old]: found for old, found in adapter.effects.items()},
        **_placed(adapter.extras.values(), names),
    )


def factorised(
    adapter: Adapter, how: str, on_component: Callable[[int, int], None] | None = None
) -> Adapter:
    """The same with its directions in memory, so that one cut after the other is quick.

    They take as much as the file itself if that is in half precision.
    """
    kept = {}
    for done, (name, stored) in enumerate(adapter.components.items(), 1):
        narrow = all(adapter.state[key].element_size() <= 2 for key in stored.factor_keys)
        dtype = torch.float16 if narrow else torch.float32  # balanced factors fit well
        if how != "effect" or name in adapter.effects:
            kept[name] = adapter.directions(name, how).mixed(dtype)
        if on_component is not None:
            on_component(done, len(adapter.components))
    return replace(adapter, splits={**adapter.splits, how: kept})


def size_of_factors(parts: Iterable[tuple[Stored, int]]) -> int:
    """How many numbers the factors of components at those ranks have."""
    return sum(rank * (one.shape[0] + prod(one.shape[1:])) for one, rank in parts)


def check_size(parts: Iterable[tuple[Stored, int]]) -> None:
    """Raises LoRA2Error if components of a LoHa or LoKr are too large to be written out: a file of
    a few megabytes can stand for factors of many gigabytes."""
    size = size_of_factors((stored, rank) for stored, rank in parts if stored.kind)
    if size > _MOST:
        raise LoRA2Error(
            f"written out as two factors, the components of a LoHa or LoKr would take "
            f"{size * 4 / 1e9:.1f} GB; compress it to a rank, an energy or a size"
        )


def _adapter(name: str, state: Mapping[str, Tensor], base: str | None) -> Adapter:
    try:
        listed, extras = workable(seen(state))
        found = named([_shapes(listed, extras)], base)
    except LoRA2Error as error:
        raise LoRA2Error(f"{name}: {error}") from error
    names = found.names[0]
    components = _shaped(((names[one.name], one) for one in listed), found.families)
    return Adapter(
        name, state, components, found.families, found.assumed, **_placed(extras, names),
        effects=_noted_effects(state, components),
    )  # fmt: skip


def _noted_effects(
    state: Mapping[str, Tensor], components: Mapping[str, Stored]
) -> dict[str, Directions]:
    """By the file's own note, if it is of its very rows."""
    ranks = {stored.name: stored.rank for stored in components.values()}
    noted = noted_effects(getattr(state, "metadata", {}), ranks)
    if not noted:
        return {}
    return {name: Directions(None, noted[stored.name], None) for name, stored in components.items()}


def _shaped(pairs: Iterable[tuple[str, Stored]], families: frozenset[str]) -> dict[str, Stored]:
    """Canonical name → component, its shape that of the layer where it is known."""
    return {
        name: stored._replace(shape=layer_shape(name, stored.shape, families))
        for name, stored in pairs
    }


def _shapes(listed: Iterable[Stored], extras: Iterable[Extra]) -> dict[str, tuple[int, ...]]:
    """Layer as the file names it → shape of ΔW, or of what else tells of the layer."""
    shapes = {stored.name: stored.shape for stored in listed}
    for extra in extras:
        if extra.name and shapes.get(extra.name, (0,)) == (0,):
            shapes[extra.name] = extra.layer_shape
    return shapes


def _placed(extras: Iterable[Extra], names: Mapping[str, str]) -> dict[str, dict]:
    """Adapter's extras and layers; raises LoRA2Error for two under one key."""
    found: dict[str, Extra] = {}
    layers = {extra.key: names.get(extra.name, "") for extra in extras}
    for extra in extras:
        layer = layers[extra.key]
        key = extra.key
        if layer:
            key = layer + (extra.hosted_ending if layer.startswith(KOHYA) else extra.ending)
        if key in found:
            raise LoRA2Error(
                f"{shown(found[key].key)} and {shown(extra.key)} are the same; save each adapter "
                "to a file of its own"
            )
        found[key] = extra
    return {"extras": found, "layers": layers}
