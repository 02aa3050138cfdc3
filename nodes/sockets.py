"""Socket types and small helpers that the nodes share."""

from comfy_api.latest import io

CATEGORY = "LoRA²"
LoraModel = io.Custom("LORA_MODEL")  # the host's own: a LoRA state dict
LossMap = io.Custom("LOSS_MAP")  # the host's own: {"loss": [...]}
RankReport = io.Custom("LORA2_RANK_REPORT")  # lora2_core.rank_report's dict, JSON-ready

# Passed by extra_dict because ComfyUI 0.8 has no `advanced` argument; newer pages fold these away.
ADVANCED = {"advanced": True}
