"""A device too small for the model: the host keeps weights back, and casts them as it computes."""

import sys

import comfy.model_management as management
import torch


class SmallDevice:
    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "switch", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"small": ("BOOLEAN", {}), "again": ("INT", {})}}

    def switch(self, small, again):
        [ours] = [m for name, m in sys.modules.items() if name.endswith("nodes.host.loan")]
        ours._fit = (lambda *_: False) if small else FITS
        management.load_models_gpu = in_part if small else LOAD
        return {"ui": {"text": [str(small)]}}


def in_part(models, **more):
    LOAD(models, **more)
    for model in () if more.get("force_full_load") else models:
        model.partially_unload(torch.device("cpu"), 1e30)
        kept.append(sum(getattr(m, "comfy_cast_weights", False) for m in model.model.modules()))


LOAD, FITS, kept = management.load_models_gpu, lambda *_: True, []


class Kept:
    """How many modules were kept back, load by load."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "tell", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"again": ("INT", {})}}

    def tell(self, again):
        return {"ui": {"text": [str(count) for count in kept]}}


NODE_CLASS_MAPPINGS = {"SmallDevice": SmallDevice, "Kept": Kept}
