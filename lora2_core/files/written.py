"""What a name in a file says of its layer, whatever writer's style it has.

The table of the styles is in docs/files.md.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from .sgm_names import PLAIN

# any of these, also more than one of them, may stand before a layer of the UNet
_WRAPPED = re.compile(
    r"_*(?:(?:lora_unet|lycoris|unet|diffusion_model|base_model_model|model|lora)_+)*"
    r"(?:(?P<head>(?:input_blocks|output_blocks)_\d+_\d+|middle_block_\d+"
    r"|(?:down_blocks|up_blocks)_\d+_(?:resnets|attentions|downsamplers|upsamplers)_\d+"
    r"|mid_block_(?:resnets|attentions)_\d+)_(?P<rest>.+)"
    r"|(?P<outside>(?:conv_in|conv_out|conv_norm_out|time_embedding|add_embedding|time_embed"
    r"|label_emb|input_blocks|out).*))"
)
# the same before a layer of a transformer, whose own name may begin with the word
_BARE = re.compile(
    r"_*(?:(?:lora_unet|lora_transformer|lora_prior_unet|lycoris|unet|diffusion_model"
    r"|base_model_model|model_diffusion_model|transformer(?!_blocks)|lora)_+)*(?P<rest>.*)",
    re.DOTALL,
)
_GENERIC = re.compile(
    r"(?:lora_unet_|unet\.|diffusion_model\.|base_model\.model\.)+(.+)", re.DOTALL
)
_TEXT = re.compile(
    r"_*(?:(?:lora|lycoris|base_model_model|model)_)*"
    r"(?:te(?P<te>[12]?)_|(?P<written>(?:text_encoder(?:_(?P<number>[12]))?_)+)"
    r"|(?:text_encoders_)?clip_(?P<clip>[lgh])_(?:transformer_)?)?"
    r"(?:(?:base_model_model|model)_)*(?P<model>text_model_)?"
    r"(?P<rest>encoder_layers_\d+_.+|text_projection|embeddings_.+|final_layer_norm)"
)
_T5 = re.compile(
    r"(?:(?:lora|lycoris)_)?(?:te\d?|text_encoder(?:_\d)?|text_encoders_t5\w*?(?:_transformer)?)_"
    r"(?P<rest>encoder_block_\d.*)"
)
_CLIP = re.compile(r"encoder_layers_\d+_(?:self_attn_(?:q|k|v|out)_proj|mlp_fc[12])")
_OUTSIDE = {name.replace(".", "_"): original.replace(".", "_") for name, original in PLAIN.items()}
_OUTSIDE |= {original: original for original in _OUTSIDE.values()}
_SECOND_WIDTH = 1280  # of CLIP-G; CLIP-L is 768 wide
_LONGEST = 200  # characters of a name that is remembered
FIRST = "?"  # the first text encoder, whose prefix others decide

Shape = tuple[int, ...]


class Place(NamedTuple):
    """What a written name says.

    kind: unet, text or other. head, rest: of a layer of the UNet, the block it is in, in either
    style, and what follows; head is "" before and behind the blocks. Of a text encoder's, kohya's
    prefix or FIRST, and the layer. Of another model's, its name as it is to be written, and without
    prefixes, by which it is compared.
    """

    kind: str
    head: str
    rest: str


def place(name: str, shape: Shape) -> Place:
    """shape: of ΔW; the width tells text encoders apart that PEFT saved."""
    found = _of_unet(name) if len(name) <= _LONGEST else _of_unet.__wrapped__(name)
    if found is not None:
        return found
    flat = _flat(name)
    match = _TEXT.fullmatch(flat)
    if match is not None and (prefix := _encoder(match, shape)):
        inner = match["rest"]
        whole = inner if inner == "text_projection" else f"text_model_{inner}"
        return Place("text", prefix, whole)
    return _of_other(name, flat)


@lru_cache(maxsize=20_000)
def _of_unet(name: str) -> Place | None:
    match = _WRAPPED.fullmatch(_flat(name))
    if match is None:
        return None
    head, rest, outside = match.groups()
    if head is not None:
        return Place("unet", head, _tidied(rest))
    inner = _OUTSIDE.get(outside.removesuffix("_lora_layer"))
    return None if inner is None else Place("unet", "", inner)


def _of_other(name: str, flat: str) -> Place:
    t5 = _T5.fullmatch(flat)
    bare = f"t5_{t5['rest']}" if t5 else _tidied(_BARE.fullmatch(flat)["rest"])
    generic = _GENERIC.fullmatch(name)
    return Place("other", name if generic is None else f"lora_unet_{_inner(generic)}", bare)


def _inner(generic: re.Match) -> str:
    return _tidied(_flat(generic[1]))


def _flat(name: str) -> str:
    if "." in name:
        name = name.replace(".processor.", ".").replace(".", "_")
    return name.rstrip("_") or name


def _tidied(flat: str) -> str:
    """Without what old versions of diffusers add to an attention's layers."""
    flat = flat.removesuffix("_lora_layer")
    return f"{flat}_0" if flat.endswith("_to_out") else flat


def _encoder(match: re.Match, shape: Shape) -> str:
    """kohya's prefix of the text encoder, FIRST for the first, "" for what is no CLIP's."""
    if match["te"] is not None:
        return f"lora_te{match['te']}_" if match["te"] else "lora_te_"
    if match["clip"] is not None:
        return "lora_te2_" if match["clip"] == "g" else FIRST
    if match["written"] is not None:
        return "lora_te2_" if match["number"] == "2" else FIRST
    if match["model"] is None and not _CLIP.fullmatch(match["rest"]):
        return ""
    wide = shape[0] if match["rest"].endswith("fc2") else shape[1] if len(shape) > 1 else shape[0]
    return "lora_te2_" if wide == _SECOND_WIDTH else FIRST
