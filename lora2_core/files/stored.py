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
from . import loha, lokr
from .beside import ALPHA, EMBEDDING, UNKNOWN, Extra, extra_of, said
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
FORMS = (loha, lokr)  # products of another form
_FORM_OF = {role: form for form in FORMS for role in form.ROLES}
_MOST = 2**27  # numbers that rewriting such a product may hold at once


class Seen(NamedTuple):
    """What must be known of a tensor to place it."""

    shape: tuple[int, ...]
    floating: bool


class Stored(NamedTuple):
    """One component: the keys of its tensors, its rank, and the shape [m, n…] of its ΔW.

    kind: "" for two factors (and lora_mid), else the form of the product. roles: the endings of
    such a product's tensors; down and up are then what its factors are called when it is rewritten.
    """

    name: str
    down: str
    up: str
    mid: str | None
    alpha: str | None
    rank: int
    shape: tuple[int, ...]
    kind: str = ""
    roles: tuple[str, ...] = ()

    @property
    def factor_keys(self) -> list[str]:
        """Of its tensors in the file, alpha left out."""
        own = [f"{self.name}.{role}" for role in self.roles] or [self.down, self.up, self.mid]
        return [key for key in own if key is not None]

    @property
    def keys(self) -> list[str]:
        """Of all its tensors in the file."""
        return self.factor_keys + ([] if self.alpha is None else [self.alpha])


class Contents(NamedTuple):
    """What a file holds: components, and tensors beside them."""

    components: list[Stored]
    extras: list[Extra]


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
    """The components of `workable`."""
    return workable(tensors).components


def workable(tensors: Mapping[str, Seen]) -> Contents:
    """`contents` of a file; raises LoRA2Error also where no component is among them."""
    found = contents(tensors)
    if not found.components:
        raise LoRA2Error(
            f"the file holds no product of factors that could be worked on, only "
            f"{said(found.extras)} (tensor {shown(found.extras[0].key)}); load it whole, with "
            "LoRA² Load or the host's own loader"
        )
    return found


def contents(tensors: Mapping[str, Seen]) -> Contents:
    """Groups a file's tensors, in the order of their first appearance.

    Raises LoRA2Error, naming the key: for a file of which nothing is understood, a factor without
    its partner, and factors that do not fit together.
    """
    found: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    extras: list[Extra] = []
    for key, tensor in tensors.items():
        name, role = _split(key)
        if role == "alpha":
            alphas[name] = key
        elif role is None:
            extras.append(extra_of(key, tensor.shape))
        elif role in found.setdefault(name, {}):
            raise LoRA2Error(
                f"{shown(name)} has two {role} factors, {shown(found[name][role])} and "
                f"{shown(key)}; save each adapter to a file of its own"
            )
        else:
            found[name][role] = key
    layers = {extra.name for extra in extras}
    for name, key in alphas.items():
        if name not in found:
            kind = ALPHA if name in layers else UNKNOWN
            extras.append(Extra(key, name, _ALPHA, kind, tensors[key].shape))
    if not found:
        _refuse_nothing(extras)
    components = [
        (_product if _form(keys) else _fitted)(name, keys, alphas.get(name), tensors)
        for name, keys in found.items()
    ]
    return Contents(components, extras)


def owner(key: str) -> str:
    """The layer that a tensor belongs to, as the file writes it; "" if none is known."""
    name, role = _split(key)
    return name if role is not None else extra_of(key, ()).name


def split_key(key: str) -> tuple[str, str | None]:
    """(component name, role) of a tensor's key; role is down, up, mid, alpha or None (unknown)."""
    if key.endswith(_ALPHA) and key != _ALPHA:
        return key.removesuffix(_ALPHA), "alpha"
    for match in _FACTOR.finditer(key, max(0, len(key) - _LONGEST_ENDING)):
        if match.end() == len(key) and match.start() > 0:
            return key[: match.start()], _ROLES[next(part for part in match.groups() if part)]
    return key, None


def _split(key: str) -> tuple[str, str | None]:
    """As split_key, for the parts of other products too; their role is their ending."""
    name, dot, role = key.rpartition(".")
    return (name, role) if dot and name and role in _FORM_OF else split_key(key)


def _form(keys: Mapping[str, str]):
    """The module of another form of product, or None for two factors."""
    return next((_FORM_OF[role] for role in keys if role in _FORM_OF), None)


def _refuse_nothing(extras: list[Extra]) -> None:
    """Raises LoRA2Error if nothing of the file is understood, or nothing that the host reads."""
    if not extras:
        raise LoRA2Error("the file holds no LoRA; choose another file")
    if any(extra.kind.hosted and extra.kind is not ALPHA for extra in extras):
        return
    first = next((e for e in extras if e.kind not in (UNKNOWN, ALPHA)), extras[0])
    if first.kind is UNKNOWN:
        raise LoRA2Error(f"tensor {shown(first.key)} is not part of a LoRA; choose a LoRA file")
    way_out = (
        "put it into the embeddings folder"
        if first.kind is EMBEDDING
        else "use the program that wrote it, or save it as a LoRA there"
    )
    raise LoRA2Error(
        f"the file holds {said(extras)} alone (tensor {shown(first.key)}), which neither this pack "
        f"nor the host's LoRA loader reads; {way_out}"
    )


def _product(
    name: str, keys: Mapping[str, str], alpha: str | None, tensors: Mapping[str, Seen]
) -> Stored:
    form = _form(keys)
    listed = ", ".join(f"{shown(key)} {_sizes(tensors[key])}" for key in keys.values())
    strangers = [role for role in keys if _FORM_OF.get(role) is not form]
    if strangers:
        raise LoRA2Error(
            f"{shown(name)} is changed by two adapters of different kinds ({listed}); save each to "
            "a file of its own"
        )
    _check_alpha(alpha, tensors)
    shapes = {role: tensors[key].shape for role, key in keys.items()}
    floating = all(tensors[key].floating for key in keys.values())
    fits = floating and all(shapes.values()) and not any(0 in shape for shape in shapes.values())
    found = form.sized(shapes) if fits else None
    if found is None:
        raise LoRA2Error(
            f"the parts of {shown(name)}, a {form.NAME}, do not fit together ({listed}); download "
            "or save it again"
        )
    rank, shape, most = found
    if most > _MOST:
        raise LoRA2Error(
            f"{shown(name)}, a {form.NAME}, is of {_sizes(Seen(shape, True))} ({listed}), which is "
            f"more than any layer that can be worked on; {_ELSEWHERE}"
        )
    roles = tuple(role for role in form.ROLES if role in keys)
    down, up = f"{name}.lora_down.weight", f"{name}.lora_up.weight"
    return Stored(name, down, up, None, alpha, rank, shape, form.NAME, roles)


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
    _check_alpha(alpha, tensors)
    return Stored(name, keys["down"], keys["up"], keys.get("mid"), alpha, down[0], shape)


def _check_alpha(alpha: str | None, tensors: Mapping[str, Seen]) -> None:
    if alpha is not None and prod(tensors[alpha].shape) != 1:
        raise LoRA2Error(
            f"{shown(alpha)} has shape {_sizes(tensors[alpha])} instead of one number; save the "
            "LoRA again"
        )


def _sizes(tensor: Seen) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"
