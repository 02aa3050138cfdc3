"""One name for a layer, whatever style a file has: kohya's, with the original UNet's blocks.

Only so can adapters of different origin be merged, and only these names load everywhere. The table
of the styles is in docs/files.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import LoRA2Error
from .families import BASES, SD1, SD2, SDXL, TWO_ENCODERS, UNETS, Family, families, split_head
from .header import shown
from .sgm_names import PLAIN, sgm_flat

# any of these, also more than one of them, may stand before a layer of the UNet
_WRAPPED = re.compile(
    r"(?:(?:lora_unet|lycoris|unet|diffusion_model|base_model_model|model|lora)_+)*"
    r"(?P<rest>(?:input_blocks|output_blocks|middle_block|down_blocks|up_blocks)_\d.*"
    r"|mid_block_.+|(?:conv_in|conv_out|conv_norm_out|time_embedding|add_embedding|time_embed"
    r"|label_emb|out)_?.*)"
)
_GENERIC = re.compile(
    r"(?:lora_unet_|unet\.|diffusion_model\.|base_model\.model\.)+(.+)", re.DOTALL
)
_BARE = re.compile(
    r"(?:lora_unet_|lora_transformer_|lycoris_|transformer\.|unet\.|diffusion_model\."
    r"|base_model\.model\.|model\.diffusion_model\.)*(.+)",
    re.DOTALL,
)
_TEXT = re.compile(
    r"(?:(?:lora|lycoris|base_model_model|model)_)*"
    r"(?:te(?P<te>[12]?)_|text_encoder(?:_(?P<number>[12]))?_|(?P<host>text_encoders_)?"
    r"clip_(?P<clip>[lgh])_(?:transformer_)?)?"
    r"(?:(?:base_model_model|model)_)*(?P<model>text_model_)?"
    r"(?P<rest>encoder_layers_\d+_.+|text_projection|embeddings_.+|final_layer_norm)"
)
_CLIP = re.compile(r"encoder_layers_\d+_(?:self_attn_(?:q|k|v|out)_proj|mlp_fc[12])")
_OUTSIDE_BLOCKS = {
    name.replace(".", "_"): original.replace(".", "_") for name, original in PLAIN.items()
} | {original.replace(".", "_"): original.replace(".", "_") for original in PLAIN.values()}
_SECOND_WIDTH = 1280  # of CLIP-G; CLIP-L is 768 wide
_ENCODER = "?"  # in a name: the first text encoder, whose prefix the others decide

Shape = tuple[int, ...]


class _Place(NamedTuple):
    """What a written name says. kind: unet, text or other. flat: the layer's name without prefix.
    written: the canonical name of another model's layer, or the text encoder's prefix."""

    kind: str
    flat: str
    written: str = ""


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
    placed = [{name: _place(name, shape) for name, shape in one.items()} for one in adapters]
    found = frozenset() if not placed else _families(adapters, placed)
    if base is not None:
        if found and base not in found:
            raise LoRA2Error(
                f"the base model is given as {base}, but these are layers of "
                f"{' or '.join(sorted(found))}; leave the base model out, or choose another file"
            )
        found = frozenset((base,))
    family, assumed = _reading(found, placed)
    first = _first_encoder(found, placed)
    known: dict[str, str] = {}
    names = []
    for places in placed:
        own: dict[str, str] = {}
        for name, place in places.items():
            canonical = _canonical(place, family, first)
            if place.kind == "other":
                canonical = known.setdefault(place.flat, canonical)
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
    place = _place(name, shape)
    return place.flat if place.kind == "other" else _canonical(place, family, "lora_te1_")


def _place(name: str, shape: Shape) -> _Place:
    flat = name.replace(".processor.", ".").replace(".", "_").rstrip("_")
    match = _WRAPPED.fullmatch(flat)
    if match is not None:
        rest = _tidied(match["rest"])
        head, _ = split_head(rest)
        if head is not None:
            return _Place("unet", rest)
        if rest in _OUTSIDE_BLOCKS:
            return _Place("unet", _OUTSIDE_BLOCKS[rest])
    elif (match := _TEXT.fullmatch(flat)) is not None and (prefix := _encoder(match, shape)):
        inner = match["rest"]
        return _Place(
            "text", inner if inner == "text_projection" else f"text_model_{inner}", prefix
        )
    generic = _GENERIC.fullmatch(name)
    if generic is not None:
        rest = _tidied(generic[1].replace(".processor.", ".").replace(".", "_").rstrip("_"))
        return _Place("other", _bare(rest), "lora_unet_" + rest)
    return _Place("other", _bare(name), name)


def _tidied(flat: str) -> str:
    """Without what old versions of diffusers add to an attention's layers."""
    flat = flat.removesuffix("_lora_layer")
    return f"{flat}_0" if flat.endswith("_to_out") else flat


def _bare(name: str) -> str:
    return _BARE.fullmatch(name)[1].replace(".", "_").rstrip("_")


def _encoder(match: re.Match, shape: Shape) -> str:
    """kohya's prefix of the text encoder, _ENCODER for the first, "" for what is no CLIP's."""
    if match["te"] is not None:
        return f"lora_te{match['te']}_" if match["te"] else "lora_te_"
    if match["clip"] is not None:
        return "lora_te2_" if match["clip"] == "g" else _ENCODER
    written = match[0].startswith(("text_encoder_", "lora_text_encoder", "lycoris_text_encoder"))
    if written or "text_encoder_" in match[0]:
        return "lora_te2_" if match["number"] == "2" else _ENCODER
    if match["model"] is None and not _CLIP.fullmatch(match["rest"]):
        return ""
    wide = shape[0] if match["rest"].endswith("fc2") else shape[1] if len(shape) > 1 else shape[0]
    return "lora_te2_" if wide == _SECOND_WIDTH else _ENCODER


def _families(
    adapters: Sequence[Mapping[str, Shape]], placed: Sequence[Mapping[str, _Place]]
) -> frozenset[str]:
    """Of all adapters together; empty where one contradicts another."""
    pairs = [
        (place, shapes[name])
        for shapes, places in zip(adapters, placed, strict=True)
        for name, place in places.items()
    ]
    unet = ((place.flat, shape) for place, shape in pairs if place.kind == "unet")
    others = [place.flat for place, _ in pairs if place.kind == "other"]
    two = any(place.written == "lora_te2_" for place, _ in pairs if place.kind == "text")
    return families(unet, others, two)


def _reading(found: frozenset[str], placed: Sequence[Mapping[str, _Place]]) -> tuple[Family, bool]:
    """The family by which diffusers' blocks are counted, and whether another would be as good."""
    possible = [UNETS[name] for name in UNETS if name in found] or [*UNETS.values()]
    family = SDXL if SDXL in possible else possible[0]
    ways = {(one.layers, one.attention_up) for one in possible}
    if len(ways) == 1:
        return family, False
    for places in placed:
        for place in places.values():
            if place.kind == "unet" and place.flat.startswith(("down", "up", "mid")):
                read = {_sgm(place.flat, one) for one in possible}
                if len(read) > 1:
                    return family, True
    return family, False


def _first_encoder(found: frozenset[str], placed: Sequence[Mapping[str, _Place]]) -> str:
    """kohya calls the only text encoder te, the first of two te1."""
    if found and found <= {SD1.name, SD2.name}:
        return "lora_te_"
    written = {p.written for places in placed for p in places.values() if p.kind == "text"}
    if found and found <= TWO_ENCODERS:
        return "lora_te1_"
    return "lora_te_" if written == {"lora_te_"} else "lora_te1_"


def _canonical(place: _Place, family: Family, first: str) -> str:
    if place.kind == "other":
        return place.written
    if place.kind == "text":
        second = place.written == "lora_te2_"
        return (place.written if second else first) + place.flat
    return "lora_unet_" + _sgm(place.flat, family)


def _sgm(flat: str, family: Family) -> str:
    head, rest = split_head(flat)
    if head is None:
        return flat
    return sgm_flat(head, rest, family.layers, family.attention_up) or flat
