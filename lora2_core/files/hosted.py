"""An adapter as the host's loader takes it: by the loader's own names, with every alpha a tensor.

The loader knows some names with some endings alone, and reads no alpha from metadata.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import LoRA2Error
from .adapter_file import load_factors
from .alphas import alphas, settings_of
from .beside import Extra, hosted_tensor
from .header import shown
from .stored import Stored


def hosted(
    state: Mapping[str, Tensor], listed: Iterable[Stored], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The components that `names` (component → the loader's name) has; tensors are not copied, but
    for a LoKr in Tucker form and a LoHa or LoKr of which the alpha is in PEFT's settings."""
    placed = [stored for stored in listed if stored.name in names]
    scales = alphas(state, placed)
    settings = settings_of(state)
    found: dict[str, Tensor] = {}
    for stored in placed:
        name = names[stored.name]
        by_settings = stored.kind and settings is not None and stored.alpha is None
        # of a core the host's torch.kron cannot view the product, and leaves the layer out
        if by_settings or "lokr_t2" in stored.roles:
            factors = load_factors(state, stored, settings)
            found[f"{name}.lora_up.weight"] = factors.up
            found[f"{name}.lora_down.weight"] = factors.down
            continue
        if scales[stored.name] is not None:
            found[f"{name}.alpha"] = torch.tensor(scales[stored.name])
        if stored.kind:
            found |= {f"{name}.{role}": state[f"{stored.name}.{role}"] for role in stored.roles}
            continue
        found[f"{name}.lora_up.weight"] = state[stored.up]
        found[f"{name}.lora_down.weight"] = state[stored.down]
        if stored.mid is not None:
            found[f"{name}.lora_mid.weight"] = state[stored.mid]
    return found


def hosted_beside(
    state: Mapping[str, Tensor],
    listed: Iterable[Stored],
    extras: Iterable[Extra],
    names: Mapping[str, str],
) -> dict[str, Tensor]:
    """The tensors beside the components, for layers that `names` has; see beside.hosted_tensor.

    Raises LoRA2Error if two of them come to one name.
    """
    extras = [extra for extra in extras if extra.name in names]
    concerned = {extra.name for extra in extras}
    known = {stored.name: stored for stored in listed if stored.name in concerned}
    scales = alphas(state, known.values())
    found: dict[str, Tensor] = {}
    for extra in extras:
        stored = known.get(extra.name)
        shape = () if stored is None else stored.shape
        alpha = scales.get(extra.name)
        scale = 1.0 if alpha is None else alpha / stored.rank
        key = f"{names[extra.name]}{extra.hosted_ending}"
        if key in found:
            raise LoRA2Error(
                f"{shown(extra.key)} is there twice under different names; save the LoRA again"
            )
        found[key] = hosted_tensor(extra, state[extra.key], shape, scale)
    return found
