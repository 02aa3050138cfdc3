"""What differs between the training methods, and only that."""

from ..adapter import Adapter
from ..config import TrainConfig
from .lora import PlainLoRA
from .lora2 import AdaptiveRank


def create(config: TrainConfig, adapters: list[Adapter]) -> PlainLoRA | AdaptiveRank:
    """The method that config.method names, over these adapters."""
    return {"lora": PlainLoRA, "lora2": AdaptiveRank}[config.method](config, adapters)
