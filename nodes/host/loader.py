"""The host's own LoRA loader: what it can place in a model, and the model with a LoRA."""

from collections.abc import Collection, Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

import comfy.lora
from torch import Tensor, nn

from ...lora2_core.files.fit import Targets


class _Places(NamedTuple):
    """What the host's loader calls a model's weights: name → key, name → shape."""

    keys: dict
    shapes: dict[str, tuple[int, ...]]


_known_places: WeakKeyDictionary[nn.Module, _Places] = WeakKeyDictionary()
_known_targets: WeakKeyDictionary[nn.Module, WeakKeyDictionary] = WeakKeyDictionary()


def _places(module: nn.Module, keys_of) -> _Places:
    """Kept for as long as the model lives: to list them takes as long as to load a LoRA."""
    if module not in _known_places:
        weights = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        keys = keys_of(module, {})
        found = ((name, _shape(key, weights)) for name, key in keys.items())
        _known_places[module] = _Places(keys, {name: s for name, s in found if s is not None})
    return _known_places[module]


def _shape(key: str | tuple, weights: dict[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Of a weight, or of the part (axis, start, length) of one that a name stands for."""
    if isinstance(key, str):
        return weights.get(key)
    whole = weights.get(key[0])
    if whole is None:
        return None
    axis, _, length = key[1]
    return (*whole[:axis], length, *whole[axis + 1 :])


def _all_places(model, clip) -> list[_Places]:
    found = [_places(model.model, comfy.lora.model_lora_keys_unet)]
    if clip is not None:
        found.append(_places(clip.cond_stage_model, comfy.lora.model_lora_keys_clip))
    return found


def target_shapes(model, clip) -> Targets:
    """Shape of the weight behind every component name that the host can place."""
    known = _known_targets.setdefault(model.model, WeakKeyDictionary())
    other = model.model if clip is None else clip.cond_stage_model
    if other not in known:
        parts = _all_places(model, clip)
        known[other] = Targets({name: s for part in parts for name, s in part.shapes.items()})
    return known[other]


def apply_lora(
    model, clip, state: Mapping[str, Tensor], names: Collection[str], strength_model, strength_clip
):
    """(MODEL, CLIP) with the adapter added, in the steps of the host's own loader.

    names: those layers of which `state` has anything, as target_shapes calls them: of a layer that
    is asked for, the host looks for every kind of adapter, and a model has thousands of names.
    """
    parts = _all_places(model, clip)
    keys = {name: part.keys[name] for part in parts for name in names if name in part.keys}
    patches = comfy.lora.load_lora(dict(state), keys)
    model = model.clone()
    model.add_patches(patches, strength_model)
    if clip is not None:
        clip = clip.clone()
        clip.add_patches(patches, strength_clip)
    return model, clip
