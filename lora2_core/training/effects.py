"""What a run gathers of its directions' effects, and its result in their order."""

import logging
from dataclasses import replace

from torch.linalg import LinAlgError

from ..config import TrainConfig
from ..effect.finish import ordered
from ..effect.moments import MomentAverage
from ..effect.spend import Limit
from ..methods import method_of
from ..methods.method import Method
from .result import TrainResult

_EVERY = 2  # steps from one that is counted to the next: half the cost, and nearly as good a mean
_MEMORY = 0.1  # of the run: older steps, of other factors, hardly count
_LEAST = 16  # counted steps; a mean of fewer is mostly noise
_log = logging.getLogger(__name__)


def gathers_effects(config: TrainConfig) -> bool:
    """Whether a run does: not where its file is to stay as it was trained."""
    return config.effect_share < 1 and method_of(config).gathers_effect


def moment_average(config: TrainConfig, method: Method) -> MomentAverage | None:
    """Of a run; None where it gathers none."""
    if not gathers_effects(config):
        return None
    memory = max(_LEAST, _MEMORY * config.steps / _EVERY)
    return MomentAverage(method.adapters, _EVERY, memory)


def by_effect(
    found: TrainResult, average: MomentAverage, method: Method, limit: Limit | None = None
) -> TrainResult:
    """The same adapter with the directions of most effect first, and without those that
    config.effect_share leaves out, or the limit.

    Without a limit every row stays in a run that ended early, which may go on, and of a method that
    does not cut. Without one nothing is changed in a run so short that its effects are mostly
    noise, or where they are not finite.
    """
    enough = average.steps >= _LEAST
    if not enough and limit is None:
        return found
    config = found.config
    cut = method.cuts_by_effect and enough and found.steps >= config.steps
    try:
        new = ordered(found.factors, average.moments(), config.effect_share, cut, limit)
    except LinAlgError:
        _log.warning("the adapter is not cut: its effects are not finite")
        return found
    ranks = {}
    for name, (nu, rank) in found.ranks.items():
        kept = len(new.effects[name])
        ranks[name] = (nu if kept == rank else None, kept)
    return replace(found, factors=new.factors, ranks=ranks, effects=new.effects)
