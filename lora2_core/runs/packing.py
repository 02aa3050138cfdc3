"""A finished run as an adapter."""

from dataclasses import asdict
from math import prod

from ..files.adapter_file import LoraState, pack
from ..files.metadata import training_metadata
from ..files.module_names import kohya_name
from ..files.size import overhead
from ..training.file_limit import WORDS
from ..training.result import TrainResult


def pack_result(result: TrainResult, **facts) -> LoraState:
    """The adapter with its metadata; facts: further arguments of training_metadata."""
    return pack(result.factors, metadata=_metadata(result, **facts))


def megabytes(result: TrainResult) -> float:
    """Of the file in half precision, with room for a few words about it."""
    there = {
        kohya_name(name): (result.shapes[name], rank)
        for name, (_, rank) in result.ranks.items()
        if name in result.factors
    }
    rows = sum(rank * (shape[0] + prod(shape[1:])) for shape, rank in there.values())
    return (2 * rows + overhead(there, _metadata(result)) + WORDS) / 1e6


def _metadata(result: TrainResult, **facts) -> dict[str, str]:
    config = result.config
    absent = {name: shape for name, shape in result.shapes.items() if name not in result.factors}
    return training_metadata(
        method=config.method, settings=asdict(config), ranks=result.ranks, steps=result.steps,
        absent=absent, effects=result.effects, **facts,
    )  # fmt: skip
