"""What a budget in megabytes leaves for the rows of a finished file [ours]."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ..config import BYTES, TrainConfig
from ..effect.spend import Limit
from ..errors import LoRA2Error
from ..files.effect_note import NOTED_BYTES
from ..files.metadata import training_metadata
from ..files.module_names import kohya_name
from ..files.size import component_bytes, overhead

WORDS = 2000  # bytes of trigger words, title, resolution and dates


def known_metadata(config: TrainConfig, **facts) -> dict[str, str]:
    """Of a run's file; facts: further arguments of training_metadata. With a date of its own: the
    same settings must count the same bytes whenever the run goes on."""
    return training_metadata(
        method=config.method, settings=asdict(config), finished_at=0.0, **facts
    )


def file_limit(
    shapes: Mapping[str, Sequence[int]], highest: Sequence[int], config: TrainConfig
) -> Limit:
    """Bytes of all rows, of one of each component, and of each component's names.

    shapes: module name → weight shape of every component; highest: the rank that each may have.
    Raises LoRA2Error, naming the least, if not a single row fits.
    """
    nothing = dict.fromkeys(shapes, (0.123456789, max(highest)))
    empty = WORDS + overhead({}, known_metadata(config, ranks=nothing, absent=shapes))
    names = {name: kohya_name(name) for name in shapes}
    costs, firsts = [], []
    for (name, shape), rank in zip(shapes.items(), highest, strict=True):
        numbers = shape[0] + math.prod(shape[1:])
        costs.append(BYTES[config.budget_precision] * numbers + NOTED_BYTES)
        firsts.append(component_bytes(names[name], shape, rank, names[name]))
    least = empty + min(map(sum, zip(costs, firsts, strict=True)))
    if 1e6 * config.budget_mb < least:
        raise LoRA2Error(
            f"budget_mb is {config.budget_mb:g}, but a file with a single row takes "
            f"{math.ceil(least / 1e4) / 100:.2f} MB; give at least that, or 0 for no budget"
        )
    return Limit(1e6 * config.budget_mb - empty, costs, firsts)
