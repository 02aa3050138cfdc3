"""The host's own LoRA loader: what it can place in a model, and the model with a LoRA."""

from collections.abc import Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.lora_convert
from torch import Tensor, nn


class _Places(NamedTuple):
    """What the host's loader calls a model's weights: name → key, name → shape."""

    keys: dict
    shapes: dict[str, tuple[int, ...]]


_known_places: WeakKeyDictionary[nn.Module, _Places] = WeakKeyDictionary()


def _places(module: nn.Module, keys_of) -> _Places:
    """Kept for as long as the model lives: to list them takes as long as to load a LoRA."""
    if module not in _known_places:
        weights = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        keys = keys_of(module, {})
        shapes = {name: weights[key] for name, key in keys.items() if key in weights}
        _known_places[module] = _Places(keys, shapes)
    return _known_places[module]


def _all_places(model, clip) -> list[_Places]:
    found = [_places(model.model, comfy.lora.model_lora_keys_unet)]
    if clip is not None:
        found.append(_places(clip.cond_stage_model, comfy.lora.model_lora_keys_clip))
    return found


def target_shapes(model, clip) -> dict[str, tuple[int, ...]]:
    """Shape of the weight behind every component name that the host can place."""
    return {name: shape for part in _all_places(model, clip) for name, shape in part.shapes.items()}


def apply_lora(model, clip, state: Mapping[str, Tensor], strength_model: float, strength_clip):
    """(MODEL, CLIP) with the adapter added, in the steps of the host's own loader."""
    keys = {name: key for part in _all_places(model, clip) for name, key in part.keys.items()}
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(state)), keys)
    model = model.clone()
    model.add_patches(patches, strength_model)
    if clip is not None:
        clip = clip.clone()
        clip.add_patches(patches, strength_clip)
    return model, clip
