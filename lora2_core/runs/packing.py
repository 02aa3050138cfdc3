"""A finished run as an adapter."""

from dataclasses import asdict

from ..files.adapter_file import LoraState, pack
from ..files.metadata import training_metadata
from ..training.result import TrainResult


def pack_result(result: TrainResult, **facts) -> LoraState:
    """The adapter with its metadata; facts: further arguments of training_metadata."""
    config = result.config
    absent = {name: shape for name, shape in result.shapes.items() if name not in result.factors}
    metadata = training_metadata(
        method=config.method, settings=asdict(config), ranks=result.ranks, steps=result.steps,
        absent=absent, effects=result.effects, **facts,
    )  # fmt: skip
    return pack(result.factors, metadata=metadata)
