"""What differs between the training methods, and only that."""

from .ac_lora import ACLoRA
from .lora import PlainLoRA
from .lora2 import AdaptiveRank
from .method import Method

METHODS: dict[str, type[Method]] = {"lora2": AdaptiveRank, "ac_lora": ACLoRA, "lora": PlainLoRA}
