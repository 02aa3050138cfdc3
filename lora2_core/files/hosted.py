"""An adapter as the host's loader takes it: by the loader's own names, with every alpha a tensor.

The loader knows some names with some endings alone, and reads no alpha from metadata.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import LoRA2Error
from .adapter_file import alphas, load_factors
from .beside import Extra, hosted_tensor
from .header import shown
from .metadata import read_peft_note
from .stored import Stored


def hosted(
    state: Mapping[str, Tensor], listed: Iterable[Stored], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The components that `names` (component → the loader's name) has; tensors are not copied, but
    for a LoKr in Tucker form."""
    placed = [stored for stored in listed if stored.name in names]
    scales = alphas(state, placed)
    note = read_peft_note(getattr(state, "metadata", {}))
    found: dict[str, Tensor] = {}
    for stored in placed:
        name = names[stored.name]
        if "lokr_t2" in stored.roles:
            # the host's torch.kron cannot view the product with the core, and leaves the layer out
            factors = load_factors(state, stored, note)
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
    known = {stored.name: stored for stored in listed}
    scales = alphas(state, known.values())
    found: dict[str, Tensor] = {}
    for extra in extras:
        if extra.name not in names:
            continue
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
