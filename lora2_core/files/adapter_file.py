"""Adapter files: one ordinary LoRA `.safetensors` whose ranks differ by component.

Written with kohya's names, the only ones that ComfyUI, diffusers, Forge and A1111 all take.
Reading also understands diffusers' and PEFT's names.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import LoRA2Error
from . import metadata, tucker
from .alphas import alpha_of, settings_of
from .header import read_header, shown
from .module_names import kohya_name
from .peft_settings import PeftSettings
from .stored import FORMS, Stored, contents, owner, seen, stored_components


class LoraState(dict):
    """An adapter: dict of tensors by name, as any loader takes it, plus the file's metadata.

    metadata: safetensors metadata, all strings; {} if nothing is known.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor] | None = None,
        metadata: Mapping[str, str] | None = None,
    ):
        super().__init__(tensors or {})
        self.metadata: dict[str, str] = dict(metadata or {})


@dataclass(frozen=True)
class Factors:
    """One component as stored: ΔW = scale · up · down.

    down: [r, n] or [r, in, k, k]. up: [m, r] or [m, r, 1, 1]. alpha: None if the file has none,
    which means scale 1.
    """

    down: Tensor
    up: Tensor
    alpha: float | None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank, or 1."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def delta(self) -> Tensor:
        """ΔW [m, n] or [m, in, k, k] in fp32."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (self.scale * product).view(self.up.shape[0], *self.down.shape[1:])


def pack(folded: Mapping[str, tuple[Tensor, Tensor]], *, metadata: Mapping[str, str]) -> LoraState:
    """An adapter in kohya's names from trained factors.

    folded: module name with dots as the live model has it, in single-file ("sgm") style →
    (down [D, n] or [D, in, k, k], up [m, D] or [m, D, 1, 1]), Λ folded into down and rows beyond D
    cut. The tensors come out in fp32 on the CPU, contiguous, each in memory of its own;
    alpha is the rank if all ranks are equal; else it is 1 and up carries the factor, because not
    every loader keeps the alphas of several components apart (layout). Raises LoRA2Error if
    factors do not fit together or two modules have one name in the file.
    """
    state = LoraState(None, metadata)
    ranks = {down.shape[0] for down, _ in folded.values()}
    for module, (down, up) in folded.items():
        name = kohya_name(module)
        if f"{name}.alpha" in state:
            raise LoRA2Error(f"two modules are named {name} in the file; rename {module}")
        state[f"{name}.lora_down.weight"] = _owned(down)
        rank = float(down.shape[0])
        alpha = rank if len(ranks) == 1 else 1.0
        state[f"{name}.lora_up.weight"] = _owned(up).mul_(rank / alpha)
        state[f"{name}.alpha"] = torch.tensor(alpha)
    stored_components(seen(state))
    return state


def as_state(lora: Mapping[str, Tensor]) -> LoraState:
    """A LORA_MODEL of any origin as a LoraState.

    A LoRA with the host's `diffusion_model.` names gets kohya's; anything else stays as it is.
    """
    if isinstance(lora, LoraState):
        return lora
    state = LoraState(lora)
    try:
        contents(seen(state))
    except LoRA2Error:
        return state
    renamed = LoraState()
    for key, tensor in state.items():
        name = owner(key)
        if not name:
            renamed[key] = tensor
        elif not name.startswith("diffusion_model."):
            return state
        else:
            module = name.removeprefix("diffusion_model.")
            renamed[kohya_name(module) + key[len(name) :]] = tensor
    return renamed


def with_trigger_words(state: LoraState, words: str) -> LoraState:
    """The same adapter with trigger words (separated by commas) in its metadata."""
    return LoraState(state, metadata.with_trigger_words(state.metadata, words))


def read(path: str | os.PathLike) -> LoraState:
    """An adapter from a safetensors file, with the names and dtypes that the file has.

    Tensors lie on the CPU in memory of their own: the file may be replaced or deleted afterwards.
    Raises LoRA2Error (see read_header) before anything is loaded from a broken file.
    """
    header = read_header(path)
    state = LoraState(None, header.metadata)
    try:
        with safe_open(str(header.path), framework="pt", device="cpu") as file:
            for key in header.tensors:
                state[key] = file.get_tensor(key).clone()
    except (SafetensorError, OSError, RuntimeError, AttributeError) as error:
        # AttributeError: a dtype that this version of torch does not have
        raise LoRA2Error(
            f"{header.path.name} cannot be loaded ({shown(str(error))}); save it again in fp16, "
            "bf16 or fp32"
        ) from error
    return state


def components(state: Mapping[str, Tensor]) -> dict[str, Factors]:
    """An adapter's components by name; a name is what the file writes before the factors' ending.

    PEFT's settings in a LoraState's metadata count where there is no alpha tensor. A third factor
    (`lora_mid`) is folded into down; a LoHa or LoKr is rewritten as two factors. Raises LoRA2Error,
    naming the key, where there are none, where they do not fit, and where the alpha cannot be told.
    """
    settings = settings_of(state)
    return {
        stored.name: load_factors(state, stored, settings)
        for stored in stored_components(seen(state))
    }


def load_factors(
    state: Mapping[str, Tensor], stored: Stored, settings: PeftSettings | None
) -> Factors:
    """One component; settings: alphas.settings_of the whole adapter."""
    alpha = alpha_of(state, stored, settings)
    if stored.kind:
        noted = settings.scale(stored.name) if settings and stored.alpha is None else None
        return _rewritten(state, stored, alpha, noted)
    return Factors(_down(state, stored), state[stored.up], alpha)


def _rewritten(
    state: Mapping[str, Tensor], stored: Stored, alpha: float | None, noted: float | None
) -> Factors:
    """Another form of product as two factors of scale 1; noted: its scale, if settings say it."""
    form = next(form for form in FORMS if stored.kind == form.NAME)
    parts = {role: state[f"{stored.name}.{role}"] for role in stored.roles}
    size = form.dimension({role: tensor.shape for role, tensor in parts.items()})
    up, down = form.factors(parts, stored.rank)
    scale = 1.0 if alpha is None or size is None else alpha / size
    scale = scale if noted is None else noted
    shape = stored.shape
    up = (up * scale).view(shape[0], stored.rank, *(1 for _ in shape[2:]))
    return Factors(down.view(stored.rank, *shape[1:]), up, None)


def _down(state: Mapping[str, Tensor], stored: Stored) -> Tensor:
    """The down factor; with lora_mid, down'_m = Σ_n mid_mn down_n is a k×k convolution."""
    down = state[stored.down]
    if stored.mid is None:
        return down
    return tucker.folded(state[stored.mid], down.flatten(1))


def _owned(tensor: Tensor) -> Tensor:
    fresh = torch.empty(tensor.shape, dtype=torch.float32)
    return fresh.copy_(tensor.detach())
