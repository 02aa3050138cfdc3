"""Which tensors of an adapter file belong together, whatever style its names have.

A component's name is what the file writes before the style's own ending, which is also how
ComfyUI's loader looks it up. Styles: kohya (`.lora_down.weight`), diffusers (`.lora.down.weight`,
`_lora.down.weight`, `.lora_linear_layer.down.weight`) and PEFT (`.lora_A.weight`,
`.lora_A.default.weight`, `.lora_A`).
"""

import re
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from torch import Tensor

from ..errors import LoRA2Error
from .header import Header, shown

_ROLES = {"down": "down", "A": "down", "up": "up", "B": "up", "mid": "mid"}
_FACTOR = re.compile(
    r"\.lora_(?P<kohya>down|up|mid)\.weight"
    r"|(?:\.lora|_lora|\.lora_linear_layer)\.(?P<diffusers>down|up)\.weight"
    r"|\.lora_(?P<peft>[AB])(?:(?:\.[^.]+)?\.weight)?"
)
_LONGEST_ENDING = 200  # characters; adapter names of PEFT are short
_ALPHA = ".alpha"
_MAX_KERNEL = 7  # bounds what folding lora_mid can allocate
_ELSEWHERE = "load it with the host's own LoRA loader"
_OTHER_FORMATS = (
    (re.compile(r"\.hada_[wt]"), "a LoHa"),
    (re.compile(r"\.lokr_[wt]"), "a LoKr"),
    (re.compile(r"\.(dora_scale|lora_magnitude_vector)\b"), "a DoRA"),
    (re.compile(r"\.(oft_|boft_|rescale$)"), "an OFT or BOFT"),
    (re.compile(r"\.[ab][12]\.weight$"), "a GLoRA"),
    (re.compile(r"\.lora_embedding_[AB]"), "an adapter of an embedding"),
    (re.compile(r"\.lora_(B|up)(\.[^.]+)?\.bias$"), "a LoRA with a bias"),
    (re.compile(r"\.(diff|diff_b|set_weight|w_norm|b_norm)$"), "an adapter with whole weights"),
    (re.compile(r"\.reshape_weight$"), "an adapter that reshapes weights"),
    (re.compile(r"\.on_input$"), "an IA3"),
    (re.compile(r"^bundle_emb\."), "a LoRA with embeddings"),
)


class Seen(NamedTuple):
    """What must be known of a tensor to place it."""

    shape: tuple[int, ...]
    floating: bool


class Stored(NamedTuple):
    """One component: the keys of its tensors, its rank, and the shape [m, n…] of its ΔW."""

    name: str
    down: str
    up: str
    mid: str | None
    alpha: str | None
    rank: int
    shape: tuple[int, ...]


def seen_in_header(header: Header) -> dict[str, Seen]:
    """What stored_components must know of an adapter in a file."""
    return {
        key: Seen(info.shape, info.dtype.startswith(("F", "BF")))
        for key, info in header.tensors.items()
    }


def seen(state: Mapping[str, Tensor]) -> dict[str, Seen]:
    """The same of an adapter in memory, or of one that is read lazily."""
    header = getattr(state, "header", None)
    if header is not None:
        return seen_in_header(header)
    return {key: Seen(tuple(t.shape), t.is_floating_point()) for key, t in state.items()}


def stored_components(tensors: Mapping[str, Seen]) -> list[Stored]:
    """Groups a file's tensors, in the order of their first appearance.

    Raises LoRA2Error, naming the key: for another kind of adapter (LoHa, LoKr, DoRA, …), a tensor
    that is part of no LoRA, a factor without its partner, and factors that do not fit together.
    """
    for key in tensors:
        _refuse_other_formats(key)
    found: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    for key in tensors:
        name, role = split_key(key)
        if role == "alpha":
            alphas[name] = key
        elif role is None:
            raise LoRA2Error(f"tensor {shown(key)} is not part of a LoRA; choose a LoRA file")
        elif role in found.setdefault(name, {}):
            raise LoRA2Error(
                f"{shown(name)} has two {role} factors, {shown(found[name][role])} and "
                f"{shown(key)}; save each adapter to a file of its own"
            )
        else:
            found[name][role] = key
    if not found:
        raise LoRA2Error("the file holds no LoRA; choose another file")
    for name, key in alphas.items():
        if name not in found:
            raise LoRA2Error(f"tensor {shown(key)} has no factors beside it; save the LoRA again")
    return [_fitted(name, keys, alphas.get(name), tensors) for name, keys in found.items()]


def split_key(key: str) -> tuple[str, str | None]:
    """(component name, role) of a tensor's key; role is down, up, mid, alpha or None (unknown)."""
    if key.endswith(_ALPHA) and key != _ALPHA:
        return key.removesuffix(_ALPHA), "alpha"
    for match in _FACTOR.finditer(key, max(0, len(key) - _LONGEST_ENDING)):
        if match.end() == len(key) and match.start() > 0:
            return key[: match.start()], _ROLES[next(part for part in match.groups() if part)]
    return key, None


def _refuse_other_formats(key: str) -> None:
    for pattern, kind in _OTHER_FORMATS:
        if pattern.search(key):
            raise LoRA2Error(
                f"the file is {kind} (tensor {shown(key)}), which is not a product of two "
                f"factors; {_ELSEWHERE}"
            )


def _fitted(
    name: str, keys: Mapping[str, str], alpha: str | None, tensors: Mapping[str, Seen]
) -> Stored:
    for role, other in (("down", "up"), ("up", "down")):
        if role not in keys:
            key = keys.get(other) or keys["mid"]
            raise LoRA2Error(
                f"tensor {shown(key)} of shape {_sizes(tensors[key])} has no {role} factor beside "
                "it; download or save the LoRA again"
            )
    for key in keys.values():
        tensor = tensors[key]
        if not tensor.floating:
            raise LoRA2Error(
                f"tensor {shown(key)} of shape {_sizes(tensor)} does not hold floating-point "
                "numbers; save the LoRA again in fp16, bf16 or fp32"
            )
        if len(tensor.shape) not in (2, 4) or 0 in tensor.shape:
            raise LoRA2Error(
                f"tensor {shown(key)} has shape {_sizes(tensor)}; only linear layers and 2-D "
                f"convolutions of rank 1 and more are understood; {_ELSEWHERE}"
            )
    down, up = tensors[keys["down"]].shape, tensors[keys["up"]].shape
    fits = len(down) == len(up) and down[0] == up[1] and set(up[2:]) <= {1}
    shape = (up[0], *down[1:])
    if "mid" in keys:
        mid = tensors[keys["mid"]].shape
        fits = fits and len(mid) == 4 and mid[:2] == (down[0], down[0]) and set(down[2:]) == {1}
        fits = fits and max(mid[2:]) <= _MAX_KERNEL
        shape = (*shape[:2], *mid[2:])
    if not fits:
        listed = ", ".join(f"{shown(key)} {_sizes(tensors[key])}" for key in keys.values())
        raise LoRA2Error(
            f"the factors of {shown(name)} do not fit together ({listed}); download or save the "
            "LoRA again"
        )
    if alpha is not None and prod(tensors[alpha].shape) != 1:
        raise LoRA2Error(
            f"{shown(alpha)} has shape {_sizes(tensors[alpha])} instead of one number; save the "
            "LoRA again"
        )
    return Stored(name, keys["down"], keys["up"], keys.get("mid"), alpha, down[0], shape)


def _sizes(tensor: Seen) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"
