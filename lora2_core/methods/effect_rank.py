"""LoRA² as it is by default: plain rows, whose ranks the effect on the loss decides [ours].

Before the first step the loss's gradient says how many rows each layer starts with, and in which
directions (effect.start, training.calibration); after the last the effect that was measured while
training says which of them the file keeps (effect.finish). Between the two all rows learn alike,
as what narrows a run while it learns costs more than it saves.
"""

from .method import Method


class EffectRank(Method):
    """ΔW = B A with as many rows in all as r_init would give, where they gain the most."""

    uses_entropy = True
    cuts_by_effect = True
    starts_by_gradient = True
