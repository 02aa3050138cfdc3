"""An adapter as the host's loader takes it: by the loader's own names, with every alpha a tensor.

The loader knows some names with some endings alone, and reads no alpha from metadata.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .alphas import alphas
from .stored import Stored


def hosted(
    state: Mapping[str, Tensor], listed: Iterable[Stored], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The components that `names` (component → the loader's name) has; tensors are not copied."""
    placed = [stored for stored in listed if stored.name in names]
    scales = alphas(state, placed)
    found: dict[str, Tensor] = {}
    for stored in placed:
        name = names[stored.name]
        found[f"{name}.lora_up.weight"] = state[stored.up]
        found[f"{name}.lora_down.weight"] = state[stored.down]
        if stored.mid is not None:
            found[f"{name}.lora_mid.weight"] = state[stored.mid]
        if scales[stored.name] is not None:
            found[f"{name}.alpha"] = torch.tensor(scales[stored.name])
    return found
