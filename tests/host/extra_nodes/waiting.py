"""LATENT and CONDITIONING of other kinds than the host's own, and ones that are not there yet."""

import torch


class Waiting:
    """Holds nothing until it is asked to."""

    def __init__(self, value):
        self.value = value

    def realize(self):
        return self.value


class Never:
    """Holds nothing, and does not say how."""


class OnDemand(dict):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def __missing__(self, key):
        return self.value[key]


class Parts:
    """As the host's nested tensors."""

    def __init__(self, *tensors):
        self.tensors, self.is_nested = tensors, True


MADE = {
    "realize": Waiting,
    "on_demand": OnDemand,
    "never": lambda value: Never(),
    "video": lambda value: {"samples": torch.zeros(1, 16, 3, 8, 8)},
    "one_frame": lambda value: {"samples": torch.zeros(1, 16, 1, 8, 8)},
    "sound": lambda value: {"samples": torch.zeros(1, 64, 100), "type": "audio"},
    "sound_4d": lambda value: {"samples": torch.zeros(1, 4, 16, 16), "type": "audio"},
    "both": lambda value: {"samples": Parts(torch.zeros(1, 16, 3, 8, 8), torch.zeros(1, 8, 9))},
}


class MadeLatent:
    RETURN_TYPES, FUNCTION, CATEGORY = ("LATENT",), "make", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "kind": (list(MADE),)}}

    def make(self, latent, kind):
        return (MADE[kind](latent),)


class MadeConditioning:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "kind": (["realize", "never"],)}}

    def make(self, conditioning, kind):
        return (MADE[kind](conditioning),)


NODE_CLASS_MAPPINGS = {"MadeLatent": MadeLatent, "MadeConditioning": MadeConditioning}
