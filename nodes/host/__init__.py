"""All of the pack that imports ComfyUI; the nodes go through it."""
