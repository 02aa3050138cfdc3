"""Adaptive-rank LoRA: training, files and reports. Knows nothing of ComfyUI."""
