"""What is trained: which layers, from which ranks, and how large the file around them is."""

from collections.abc import Mapping
from dataclasses import asdict

from ..config import MAX_RANK, TrainConfig
from ..diffusion.denoiser import Denoiser
from ..files.metadata import training_metadata
from ..files.module_names import kohya_name
from ..files.size import overhead
from ..layers.inject import ordered_adapters
from ..methods import METHODS
from ..methods.method import Method
from ..ranks import rank_map

Components = tuple[tuple[str, tuple[int, ...]], ...]  # name in the file and weight shape, in order
WORDS = 2000  # bytes of trigger words, title, resolution and dates


def starting_ranks(
    denoiser: Denoiser, config: TrainConfig, ranks: Mapping[str, int] | None = None
) -> list[int]:
    """Rank that each component of a Training would start from; raises what that raises."""
    method, _ = planned(denoiser, config, ranks)
    return method.first_ranks()


def planned(
    denoiser: Denoiser, config: TrainConfig, ranks: Mapping[str, int] | None
) -> tuple[Method, Components]:
    """The method on adapters that have no rows yet, and module name and weight shape of each.

    ranks: component → the rank that it starts from (rank_map.starts); None: r_init for all. Raises
    LoRA2Error for settings that do not fit the network.
    """
    kind = METHODS[config.method]
    adapters = ordered_adapters(
        denoiser, config.targets, kind.highest_rank(config), config.optimizer == "adamw"
    )
    components = tuple(
        (denoiser.module_name(adapter.name), tuple(adapter.layer.weight.shape))
        for adapter in adapters
    )
    starts = None if ranks is None else rank_map.starts(ranks, components, config.r_init)
    return kind(config, adapters, starts, _overhead(components, config)), components


def _overhead(components: Components, config: TrainConfig) -> int:
    """Bytes of the file beside its rows, with room for a few words about it."""
    ranks = {name: (0.123456789, MAX_RANK) for name, _ in components}
    # a date of its own: the same settings must count the same bytes whenever the run goes on
    noted = {} if config.effect_share == 1 else dict.fromkeys(ranks, (1.0,))
    known = training_metadata(
        method=config.method, settings=asdict(config), ranks=ranks, finished_at=0.0, effects=noted
    )
    highest = {kohya_name(name): (shape, MAX_RANK) for name, shape in components}
    return overhead(highest, known) + WORDS
