"""Plain LoRA at a fixed rank with alpha = rank: the baseline of the LoRA² paper."""

from .method import Method


class PlainLoRA(Method):
    """ΔW = B A, every rank as it starts."""
