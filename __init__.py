"""LoRA²: adaptive-rank LoRA training for ComfyUI."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The host's entry point; imported late so that tools can read this file without the host."""
    from .nodes import LoRA2Extension

    return LoRA2Extension()
