"""What differs between the training methods, and only that."""

from ..config import TrainConfig
from .ac_lora import ACLoRA
from .effect_rank import EffectRank
from .lora import PlainLoRA
from .lora2 import AdaptiveRank
from .method import Method


def method_of(config: TrainConfig) -> type[Method]:
    """What trains by these settings."""
    if config.method == "lora2":
        return EffectRank if config.importance == "flat" else AdaptiveRank
    return {"ac_lora": ACLoRA, "lora": PlainLoRA}[config.method]
