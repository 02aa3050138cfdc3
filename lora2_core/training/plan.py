"""What is trained: which layers, from which ranks, and how large the file around them is."""

import math
from collections.abc import Mapping, Sequence

from ..config import MAX_RANK, TrainConfig
from ..diffusion.denoiser import Denoiser
from ..effect.spend import Limit
from ..errors import LoRA2Error
from ..files.effect_note import NOTED_BYTES
from ..files.module_names import kohya_name
from ..files.size import overhead
from ..layers.inject import ordered_adapters
from ..methods import method_of
from ..methods.method import Method
from .file_limit import WORDS, file_limit, known_metadata

Components = tuple[tuple[str, tuple[int, ...]], ...]  # name in the file and weight shape, in order


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

    ranks: component → the rank that it starts from (map_starts); None: r_init for all. Raises
    LoRA2Error for settings that do not fit the network.
    """
    kind = method_of(config)
    adapters = ordered_adapters(
        denoiser, config.targets, kind.highest_rank(config), config.optimizer == "adamw"
    )
    components = tuple(
        (denoiser.module_name(adapter.name), tuple(adapter.layer.weight.shape))
        for adapter in adapters
    )
    starts = None if ranks is None else map_starts(ranks, components, config.r_init)
    finished_limit(config, components)
    noted = 0 if config.effect_share == 1 else NOTED_BYTES
    return kind(config, adapters, starts, _overhead(components, config), noted), components


def finished_limit(config: TrainConfig, components: Components) -> Limit | None:
    """What the finished file is cut to; None if it is not. Raises what file_limit raises."""
    if not config.budget_mb or config.holds_budget:
        return None
    ranks = [min(config.r_max, shape[0], math.prod(shape[1:])) for _, shape in components]
    return file_limit(dict(components), ranks, config)


def map_starts(
    ranks: Mapping[str, int],
    components: Sequence[tuple[str, tuple[int, ...]]],
    otherwise: int,
) -> list[int]:
    """The rank that each component of a run starts from, in the run's order.

    ranks: names as in the file. components: (module name, weight shape). otherwise: for those that
    the map does not name. A rank above a layer's size is cut to it. Raises LoRA2Error if none is
    named: then the map is of another network.
    """
    names = [kohya_name(module) for module, _ in components]
    if not any(name in ranks for name in names):
        raise LoRA2Error(
            f"the rank map is of another network: none of its {len(ranks)} components "
            f"({next(iter(ranks), 'none')}, …) is adapted here ({names[0]}, …); take one of a run "
            "on this kind of model"
        )
    return [
        min(max(1, ranks.get(name, otherwise)), shape[0], math.prod(shape[1:]))
        for name, (_, shape) in zip(names, components, strict=True)
    ]


def _overhead(components: Components, config: TrainConfig) -> int:
    """Bytes of the file beside its rows, with room for a few words about it."""
    ranks = {name: (0.123456789, MAX_RANK) for name, _ in components}
    noted = {} if config.effect_share == 1 else dict.fromkeys(ranks, (1.0,))
    known = known_metadata(config, ranks=ranks, effects=noted)
    highest = {kohya_name(name): (shape, MAX_RANK) for name, shape in components}
    return overhead(highest, known) + WORDS
