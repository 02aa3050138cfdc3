"""The memory of the device that the host runs models on."""

import comfy.model_management


def free_memory() -> None:
    """Gives back what torch holds in reserve."""
    comfy.model_management.soft_empty_cache(True)


def available_memory() -> int:
    """Bytes that are free on the device that models run on."""
    return int(comfy.model_management.get_free_memory())
