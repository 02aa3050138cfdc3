"""One name for a component, whatever style a file has: kohya's, with the original UNet's blocks.

Only so can adapters of different origin be merged, and only these names load everywhere.
"""

import re
from collections.abc import Iterable, Mapping

from ..errors import LoRA2Error
from .header import shown
from .sgm_names import PLAIN, sgm_name

_UNET = re.compile(r"(?:lora_unet_|unet\.|diffusion_model\.|base_model\.model\.(?:unet\.)?)(.+)")
_TEXT = re.compile(
    r"(?:lora_te(?P<kohya>[12]?)_|text_encoder(?P<peft>_2)?\.)(?:text_model[._])?(?P<rest>encoder.+)"
)
_DIFFUSERS = re.compile(
    r"(?P<path>down_blocks|up_blocks|mid_block)_(?:(?P<level>\d+)_)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)_(?P<index>\d+)_(?P<rest>.+)"
)
_OUTSIDE_BLOCKS = {
    name.replace(".", "_"): original.replace(".", "_") for name, original in PLAIN.items()
}
_SGM = re.compile(r"(input_blocks|middle_block|output_blocks)_\d+_")
_CONTEXTS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}

Shape = tuple[int, ...]


def kohya_name(module: str) -> str:
    """The file's name of a module of the UNet, or of the text encoders `te1` and `te2`: kohya's
    prefix, and underscores for dots.
    """
    prefix = "lora_" if module.startswith(("te1.", "te2.")) else "lora_unet_"
    return prefix + module.replace(".", "_")


def architecture(shapes: Mapping[str, Shape]) -> str | None:
    """The base model that an adapter of these components (name → shape of ΔW) belongs to.

    One of Stable Diffusion 1, Stable Diffusion 2, SDXL, KOALA, Flux; None if nothing tells.
    """
    plain = {_flat(name): shape for name, shape in shapes.items()}
    if any("double_blocks" in name or "single_transformer_blocks" in name for name in plain):
        return "Flux"
    widths = {
        shape[1]
        for name, shape in plain.items()
        if re.search(r"_attn2_to_[kv]$", name) and len(shape) == 2
    }
    known = {_CONTEXTS[width] for width in widths & _CONTEXTS.keys()}
    if len(known) != 1:
        return None
    found = known.pop()
    if found == "SDXL" and _is_koala(plain):
        return "KOALA"
    return found


def canonical_names(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Component as the file names it → kohya's name of the same module.

    Names that are not understood (another kind of model) stay as they are. Raises LoRA2Error if
    two components of the file are one module.
    """
    base = architecture(shapes)
    layers = 1 if base == "KOALA" else 2
    found: dict[str, str] = {}
    for name in shapes:
        canonical = _canonical(name, layers, base)
        if canonical in found:
            raise LoRA2Error(
                f"{shown(found[canonical])} and {shown(name)} are the same layer; save each "
                "adapter to a file of its own"
            )
        found[canonical] = name
    return {name: canonical for canonical, name in found.items()}


def attention_kind(name: str) -> str | None:
    """`self` or `cross` for a projection of a UNet's attention, else None."""
    match = re.search(r"_attn([12])_to_", name)
    return None if match is None else ("self" if match[1] == "1" else "cross")


def _canonical(name: str, layers: int, base: str | None) -> str:
    if match := _TEXT.fullmatch(name):
        rest = match["rest"].replace(".", "_")
        number = match["kohya"] if match["kohya"] is not None else ""
        if match["kohya"] is None and base in ("SDXL", "KOALA", None):
            number = "2" if match["peft"] else "1"
        return f"lora_te{number}_text_model_{rest}"
    match = _UNET.fullmatch(name)
    if match is None:
        return name
    rest = match[1].replace(".processor.", ".").replace(".", "_").removesuffix("_lora_layer")
    rest = re.sub(r"_to_out$", "_to_out_0", rest)
    if _SGM.match(rest) or (block := _DIFFUSERS.fullmatch(rest)) is None:
        return "lora_unet_" + _OUTSIDE_BLOCKS.get(rest, rest)
    # a level counts for the slot of an up-sampler alone: with attention it comes third
    levels = (False, True, True, True) if base == "Stable Diffusion 1" else (True, True, False)
    level = "" if block["level"] is None else f".{block['level']}"
    dotted = f"{block['path']}{level}.{block['kind']}.{block['index']}.{block['rest']}"
    return "lora_unet_" + sgm_name(dotted, layers, levels).replace(".", "_")


def _flat(name: str) -> str:
    return name.replace(".processor.", ".").replace(".", "_")


def _is_koala(names: Iterable[str]) -> bool:
    """KOALA has one block a level on the way down, SDXL two."""
    text = "\n".join(names)
    sgm = set(re.findall(r"input_blocks_(\d+)_1_", text))
    if sgm:
        return not sgm & {"4", "7", "8"} and bool(sgm & {"3", "5"})
    down = set(re.findall(r"down_blocks_\d+_attentions_(\d+)_", text))
    return down == {"0"}
