"""What a run gathers of its directions' effects, and its result in their order."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from torch.linalg import LinAlgError

from ..config import TrainConfig
from ..effect.finish import ordered
from ..effect.measure import Moments
from ..effect.moments import MomentAverage
from ..methods.method import Method
from .result import TrainResult

_EVERY = 2  # steps from one that is counted to the next: half the cost, and nearly as good a mean
_MEMORY = 0.1  # of the run: older steps, of other factors, hardly count
_LEAST = 16  # counted steps; a mean of fewer is mostly noise
_log = logging.getLogger(__name__)


def gathers_effects(config: TrainConfig, method: Method | type[Method]) -> bool:
    """Whether a run does: not where its file is to stay as it was trained."""
    return config.effect_share < 1 and method.gathers_effect


def moment_average(config: TrainConfig, method: Method) -> MomentAverage | None:
    """Of a run; None where it gathers none."""
    if not gathers_effects(config, method):
        return None
    memory = max(_LEAST, _MEMORY * config.steps / _EVERY)
    return MomentAverage(method.adapters, _EVERY, memory)


def by_effect(found: TrainResult, moments: Sequence[Moments], cut: bool) -> TrainResult:
    """The same adapter with the directions of most effect first; cut: without those that
    config.effect_share leaves out.

    moments: one a component. Where they are not finite the adapter stays as it is.
    """
    share = found.config.effect_share
    try:
        new = ordered(found.factors, moments, share, cut=cut)
    except LinAlgError:
        _log.warning("the adapter is not cut: its effects are not finite")
        return found
    ranks = {}
    for name, (nu, rank) in found.ranks.items():
        kept = len(new.effects[name])
        ranks[name] = (nu if kept == rank else None, kept)
    return replace(found, factors=new.factors, ranks=ranks, effects=new.effects)
