"""A run's ranks and first directions by the gradient of the untrained model [ours]."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.linalg import LinAlgError

from ..config import TrainConfig
from ..diffusion.data import Batch
from ..diffusion.denoiser import Denoiser
from ..effect.start import leading, starting_ranks
from ..errors import LoRA2Error
from ..layers.parallel import in_order
from ..methods import method_of
from ..methods.method import Method
from .first_gradient import first_gradient

_FEWEST = 16  # steps' batches; the mean of fewer is mostly noise
_LEAST, _MOST = 32, 64  # rows that the gradient is seen through; the leading ones need company


def calibration_steps(config: TrainConfig) -> int:
    """Steps' batches that a run takes before its first step."""
    wanted = config.start == "gradient" and method_of(config).starts_by_gradient
    asked = max(_FEWEST, round(config.start_share * config.steps))
    return min(asked, config.steps) if wanted else 0


def probe_rows(config: TrainConfig) -> int:
    """Rows of a component that its gradient is seen through: the directions that are known."""
    return min(max(config.r_max, _LEAST), _MOST)


def calibrate(
    method: Method,
    denoiser: Denoiser,
    batches: Iterator[list[Batch]],
    config: TrainConfig,
    passes: int,
    scale: float,
    weights: Tensor | None,
    given: bool,
    on_pass: Callable[[int, int], None] | None = None,
) -> None:
    """Starts the method anew, with as many rows in all as it had, where they gain the most.

    passes: calibration_steps. given: the ranks were asked for layer by layer, and stay. The rest as
    in first_gradient. Raises LoRA2Error for a gradient that is not finite; the method is then as it
    was.
    """
    adapters, ranks = method.adapters, method.first_ranks()
    sketches = first_gradient(
        denoiser, adapters, batches, config, passes, probe_rows(config), scale, weights, on_pass
    )
    try:
        found = list(in_order(leading, [sketch.cpu() for sketch in sketches]))
    except LinAlgError:
        raise LoRA2Error(
            "the gradient is not finite before anything is trained; train in bf16 or fp32 (now "
            f"{config.dtype}), and see that the images are encoded with the model's own VAE"
        ) from None
    if not given:
        costs = [adapter.in_features + adapter.out_features for adapter in adapters]
        budget = sum(rank * cost for rank, cost in zip(ranks, costs, strict=True))
        highest = [min(config.r_max, len(one.gains)) for one in found]
        ranks = starting_ranks([one.gains for one in found], costs, budget, highest)
    generator = torch.Generator().manual_seed(config.seed)
    alive = [one.directions[: int((one.gains > 0).sum())] for one in found]
    method.start_along(ranks, alive, generator)
