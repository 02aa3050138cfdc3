"""The loss's gradient by each ΔW while nothing has been learned, through a few random rows [ours].

With A = 0 and B = Ωᵀ random, ΔW is 0 and the gradient of A is Ω G: what backpropagation computes in
any case, [k, n] a component, and never the dense [m, n].
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..diffusion.data import Batch
from ..diffusion.denoiser import Denoiser
from ..layers.adapter import Adapter
from ..layers.half import half_factors
from ..layers.inject import attached
from .forward import DTYPES, forward, watched
from .gradients import differentiated

_HALVINGS = 16  # of a loss scale that overflows; more, and it is not the scale's fault


def first_gradient(
    denoiser: Denoiser,
    adapters: Sequence[Adapter],
    batches: Iterator[list[Batch]],
    config: TrainConfig,
    passes: int,
    rows: int,
    scale: float,
    weights: Tensor | None,
    on_pass: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """Ω G [k, n] of each layer, fp32 on its device: the mean of `passes` steps' batches.

    adapters: name the layers; they are not changed, nor is the model. rows: k, at most. scale: of
    the loss in half precision, halved where it overflows. weights: of the noise levels. on_pass:
    called after each with (done, all), and may raise to stop.
    """
    generator = torch.Generator().manual_seed(config.seed)
    probes = [_probe(adapter, rows, generator) for adapter in adapters]
    sums = _Sums([probe.a.active for probe in probes], scale, config.dtype == "fp16")
    with attached(probes), watched(denoiser, config, None):
        for done in range(passes):
            for batch in next(batches):
                with differentiated(1), half_factors(probes, DTYPES[config.dtype]):
                    loss, _ = forward(denoiser, batch, config, None, generator, weights)
                    (sums.scale * batch.weight * loss).backward()
                sums.add()
            if on_pass is not None:
                on_pass(done + 1, passes)
    return sums.taken(passes)


class _Sums:
    """Of the parameters' gradients, where autograd leaves them; apart from there only where a pass
    may have to be left out, as its loss was scaled too far for half precision.

    scale: of the loss of the next pass.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], scale: float, doubtful: bool):
        self.scale = scale
        self._parameters = parameters
        self._halvings = _HALVINGS
        self._apart = [torch.zeros_like(one) for one in parameters] if doubtful else None

    def add(self) -> None:
        """After each backward pass."""
        if self._apart is None:
            return
        found = self._grads()
        if self._halvings and not torch.stack([one.isfinite().all() for one in found]).all():
            self.scale, self._halvings = self.scale / 2, self._halvings - 1
        else:
            torch._foreach_add_(self._apart, found, alpha=1 / self.scale)

    def taken(self, passes: int) -> list[Tensor]:
        """What the passes added up to, over their number."""
        found, scale = (self._grads(), self.scale) if self._apart is None else (self._apart, 1.0)
        return [one / (scale * passes) for one in found]

    def _grads(self) -> list[Tensor]:
        found = []
        for one in self._parameters:
            found.append(torch.zeros_like(one) if one.grad is None else one.grad)
            one.grad = None
        return found


def _probe(adapter: Adapter, rows: int, generator: torch.Generator) -> Adapter:
    """A = 0, B ~ N(0, 1/k), of which no gradient is taken."""
    found = Adapter(adapter.name, adapter.layer, adapter.device, moments=False)
    rank = min(rows, adapter.max_rank)
    b = torch.randn(rank, adapter.out_features, generator=generator) / rank**0.5
    found.set_rank(rank, torch.zeros(rank, adapter.in_features), b)
    found.b.active.requires_grad_(False)
    return found
