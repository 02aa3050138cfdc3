"""What the directions of a finished adapter do to the loss of a model, on pictures [ours]."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..diffusion.data import Batch
from ..diffusion.denoiser import Denoiser
from ..effect.measure import Directions, Moments, directions
from ..effect.moments import MomentAverage
from ..errors import LoRA2Error
from ..files.beside import MAGNITUDE, Extra
from ..files.families import UNETS
from ..files.module_names import architecture, kohya_name
from ..files.stored import Stored
from ..layers.adapter import Adapter as Rows
from ..layers.half import half_factors
from ..layers.inject import attached
from ..layers.parallel import in_order
from .forward import DTYPES, forward, watched
from .gradients import differentiated
from .level_weights import level_weights

PASSES = 60  # of a picture each; not tuned
_FOREVER = 1e12  # steps of memory: every pass counts alike


class Measurable(Protocol):
    """A finished adapter, as rank_tools.Adapter is.

    components: name → its shape and more. extras, layers: what is beside them, and the layer of
    each. factors: (up [m, r], down [r, n]) of a component in fp32, the scale in up.
    """

    name: str
    components: Mapping[str, Stored]
    extras: Mapping[str, Extra]
    layers: Mapping[str, str]

    def factors(self, component: str) -> tuple[Tensor, Tensor]: ...


def measured(
    denoiser: Denoiser,
    adapter: Measurable,
    batches: Iterator[list[Batch]],
    config: TrainConfig,
    passes: int = PASSES,
    on_pass: Callable[[int, int], None] | None = None,
) -> dict[str, Directions]:
    """The effects of all components that the model has, but for those of a DoRA.

    One forward and backward pass a batch, at random noise levels, with the whole adapter at
    strength 1; the model is left as it was. config: dtype, seed, gradient_checkpointing and the
    choice of noise levels count. on_pass(done, all) is called after each and may raise to stop.
    Raises LoRA2Error for less than one pass, if the model has no layer of the adapter's, has one in
    another shape, or has a loss that is not finite.
    """
    check_passes(passes)
    rows = _placed(denoiser, adapter)
    generator = torch.Generator().manual_seed(config.seed)
    weights = level_weights(config, denoiser.timesteps)
    adapters = list(rows.values())
    average = MomentAverage(adapters, 1, _FOREVER)
    with attached(adapters), watched(denoiser, config, None):
        for done in range(passes):
            for batch in next(batches):
                with differentiated(done + 1), average.gathering(done):
                    _pass(denoiser, batch, config, adapters, generator, weights, done + 1)
            if on_pass is not None:
                on_pass(done + 1, passes)
    moments = [Moments(*(part.cpu() for part in one)) for one in average.moments()]
    return dict(zip(rows, in_order(directions, moments), strict=True))


def check_passes(passes: int) -> None:
    """Raises LoRA2Error for less than one."""
    if passes < 1:
        raise LoRA2Error(f"passes is {passes}; it must be at least 1")


def base_of(denoiser: Denoiser) -> str | None:
    """The model's family, one of families.UNETS' names; None for another one."""
    shapes = {name: tuple(layer.weight.shape) for name, (_, layer) in _layers(denoiser).items()}
    found = architecture(shapes)
    return found if found in UNETS else None


def _pass(
    denoiser: Denoiser,
    batch: Batch,
    config: TrainConfig,
    adapters: list[Rows],
    generator: torch.Generator,
    weights: Tensor | None,
    number: int,
) -> None:
    with half_factors(adapters, DTYPES[config.dtype]):
        loss, _ = forward(denoiser, batch, config, None, generator, weights)
        loss.backward()
    for one in adapters:
        one.a.active.grad = one.b.active.grad = None
    if not math.isfinite(value := float(loss.detach())):
        raise LoRA2Error(
            f"the loss became {value} in pass {number} of measuring; measure in bf16 or fp32 (now "
            f"{config.dtype}), and see that the pictures are encoded with the model's own VAE"
        )


def _placed(denoiser: Denoiser, adapter: Measurable) -> dict[str, Rows]:
    """Component → its factors as rows on the layer that it changes, for all that the model has."""
    layers = _layers(denoiser)
    # of a DoRA the magnitude comes after the sum, so that its product does something else
    dora = {
        adapter.layers[extra.key] for extra in adapter.extras.values() if extra.kind is MAGNITUDE
    }
    found = {}
    for component, stored in adapter.components.items():
        if component not in layers or component in dora:
            continue
        name, layer = layers[component]
        if layer.weight.shape[0] != stored.shape[0] or (
            layer.weight[0].numel() != math.prod(stored.shape[1:])
        ):
            raise LoRA2Error(
                f"{component} of {adapter.name} changes a layer of {_sizes(stored.shape)}, and the "
                f"model's is {_sizes(tuple(layer.weight.shape))}; connect the model that it was "
                "made for"
            )
        up, down = adapter.factors(component)
        rows = Rows(name, layer, denoiser.device, moments=False)
        rows.set_rank(down.shape[0], down, up.t())
        found[component] = rows
    if not found:
        if dora:
            raise LoRA2Error(
                f"{adapter.name} is a DoRA, of which the effect cannot be measured; cut it by svd"
            )
        raise LoRA2Error(
            f"the model has no layer of {adapter.name} ({next(iter(adapter.components))}, …); "
            "connect the one that it was made for"
        )
    return found


def _layers(denoiser: Denoiser) -> dict[str, tuple[str, nn.Linear | nn.Conv2d]]:
    """Component → its layer in the network, and that one's name there."""
    return {
        kohya_name(denoiser.module_name(name)): (name, layer)
        for name, layer in denoiser.network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and getattr(layer, "groups", 1) == 1
    }


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
