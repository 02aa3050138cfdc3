"""One name for a layer, whatever style a file has: kohya's, with the original UNet's blocks.

Only so can adapters of different origin be merged, and only these names load everywhere. The table
of the styles is in docs/files.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import LoRA2Error
from .families import BASES, SD1, SD2, SDXL, TWO_ENCODERS, UNETS, Family, families
from .header import shown
from .sgm_names import sgm_flat
from .transformer_names import spelt
from .written import Place, Shape, place

_DIFFUSERS = ("down_blocks", "up_blocks", "mid_block")


@dataclass(frozen=True)
class Named:
    """Adapters' layers under names that they share.

    names: of each adapter, component as written → canonical name. families: base models that all of
    them can belong to, empty if unknown. assumed: whether blocks were read as SDXL's because
    nothing told.
    """

    names: list[dict[str, str]]
    families: frozenset[str]
    assumed: bool


def kohya_name(module: str) -> str:
    """The file's name of a module of the UNet, or of the text encoders `te1` and `te2`: kohya's
    prefix, and underscores for dots.
    """
    prefix = "lora_" if module.startswith(("te1.", "te2.")) else "lora_unet_"
    return prefix + module.replace(".", "_")


def architecture(shapes: Mapping[str, Shape]) -> str | None:
    """The base model that an adapter of these components (name → shape of ΔW) belongs to.

    One of Stable Diffusion 1, Stable Diffusion 2, SDXL, KOALA, Flux and others of its kind; None
    if nothing tells.
    """
    found = named([shapes]).families
    return next(iter(found)) if len(found) == 1 else None


def canonical_names(shapes: Mapping[str, Shape], base: str | None = None) -> dict[str, str]:
    """Component as the file names it → kohya's name of the same module.

    Names that are not understood (another kind of model) stay as they are. base: as in named.
    Raises LoRA2Error if two components of the file are one module.
    """
    return named([shapes], base).names[0]


def named(adapters: Sequence[Mapping[str, Shape]], base: str | None = None) -> Named:
    """Canonical names of the components of adapters that belong together.

    adapters: component → shape of ΔW. base: one of families.UNETS' names where it is known, such
    as from a model that is connected; else what the layers tell is taken, of all adapters together,
    and where they tell nothing SDXL. Raises LoRA2Error if two components of one adapter are one
    module, or if the layers cannot be those of `base`.
    """
    placed = [{name: place(name, shape) for name, shape in one.items()} for one in adapters]
    found = _families(adapters, placed)
    if base is not None:
        if found and base not in found:
            raise LoRA2Error(
                f"the base model is given as {base}, but these are layers of "
                f"{' or '.join(sorted(found))}; leave the base model out, or choose another file"
            )
        found = frozenset((base,))
    family, assumed = _reading(found, placed)
    first = _first_encoder(found, placed)
    others = _others(placed)
    names = []
    for places in placed:
        own: dict[str, str] = {}
        for name, one in places.items():
            canonical = others[one.rest] if one.kind == "other" else _canonical(one, family, first)
            if canonical in own:
                raise LoRA2Error(
                    f"{shown(own[canonical])} and {shown(name)} are the same layer; save each "
                    "adapter to a file of its own"
                )
            own[canonical] = name
        names.append({name: canonical for canonical, name in own.items()})
    return Named(names, found, assumed)


def base_name(option: str | None) -> str | None:
    """What `named` calls a base model of the command line; raises LoRA2Error for an unknown one."""
    if option is None:
        return None
    if option not in BASES:
        raise LoRA2Error(f"base is {option!r}; choose one of {', '.join(BASES)}")
    return BASES[option]


def attention_kind(name: str) -> str | None:
    """`self` or `cross` for a projection of a UNet's attention, else None."""
    match = re.search(r"_attn([12])_to_", name)
    return None if match is None else ("self" if match[1] == "1" else "cross")


def layer_key(name: str, shape: Shape, family: Family) -> str:
    """One key for a layer of a model of that family, whatever style names it."""
    found = place(name, shape)
    return found.rest if found.kind == "other" else _canonical(found, family, "lora_te1_")


def _families(
    adapters: Sequence[Mapping[str, Shape]], placed: Sequence[Mapping[str, Place]]
) -> frozenset[str]:
    """Of all adapters together; empty where one contradicts another."""
    unet, others, two = [], [], False
    for shapes, places in zip(adapters, placed, strict=True):
        for name, (kind, head, rest) in places.items():
            if kind == "unet":
                unet.append((head, rest, shapes[name]))
            elif kind == "other":
                others.append(rest)
            elif head == "lora_te2_":
                two = True
    return families(unet, others, two)


def _others(placed: Sequence[Mapping[str, Place]]) -> dict[str, str]:
    """Layers of other models, by their names without prefixes → the name that all get: the
    original's where it is known, else as the first adapter writes it.

    Raises LoRA2Error where one has a layer whole of which another has a part.
    """
    written: dict[str, str] = {}
    for places in placed:
        for kind, name, rest in places.values():
            if kind == "other":
                written.setdefault(rest, name)
    if not written:
        return {}
    for rest, (whole, within) in spelt(written).items():
        if whole is not None:
            written[rest] = f"lora_unet_{whole}"
            if whole in written:
                written[whole] = written[rest]
        elif within in written:
            raise LoRA2Error(
                f"{shown(written[rest])} and {shown(written[within])} hold the same weights, the "
                "one apart (diffusers' names) and the other in one matrix (the original's), so "
                "that they cannot be added layer by layer; use adapters in one of the two forms"
            )
    return written


def _reading(found: frozenset[str], placed: Sequence[Mapping[str, Place]]) -> tuple[Family, bool]:
    """The family by which diffusers' blocks are counted, and whether another would be as good."""
    possible = [UNETS[name] for name in UNETS if name in found] or [*UNETS.values()]
    family = SDXL if SDXL in possible else possible[0]
    ways = [*{(one.layers, one.attention_up): one for one in possible}.values()]
    if len(ways) == 1:
        return family, False
    heads = {
        head
        for places in placed
        for kind, head, _ in places.values()
        if kind == "unet" and head.startswith(_DIFFUSERS)
    }
    # the layer in it is called alike in all of them
    return family, any(len({_sgm(head, "", one) for one in ways}) > 1 for head in heads)


def _first_encoder(found: frozenset[str], placed: Sequence[Mapping[str, Place]]) -> str:
    """kohya calls the only text encoder te, the first of two te1."""
    if found and found <= {SD1.name, SD2.name}:
        return "lora_te_"
    if found and found <= TWO_ENCODERS:
        return "lora_te1_"
    written = {p.head for places in placed for p in places.values() if p.kind == "text"}
    return "lora_te_" if written == {"lora_te_"} else "lora_te1_"


def _canonical(found: Place, family: Family, first: str) -> str:
    """Of a layer of a UNet or a text encoder."""
    if found.kind == "text":
        return (found.head if found.head == "lora_te2_" else first) + found.rest
    return _sgm(found.head, found.rest, family)


def _sgm(head: str, rest: str, family: Family) -> str:
    if not head:
        return f"lora_unet_{rest}"
    return f"lora_unet_{sgm_flat(head, rest, family.layers, family.attention_up)}"
