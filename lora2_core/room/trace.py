"""Bytes that a training step takes, counted before it is made.

The step runs through the network as it is, but on tensors that have shapes and no memory (torch's
FakeTensorMode); every storage that an operation makes is counted until nothing refers to it any
more, the saved activations of autograd and what checkpointing recomputes included. What an
allocator adds, by rounding and by workspaces of its kernels, is not counted.
"""

import weakref
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ..config import TrainConfig
from ..diffusion.data import Batch
from ..diffusion.denoiser import Denoiser
from ..layers.half import half_factors
from ..layers.inject import attached, ordered_adapters
from ..training.forward import DTYPES, entropy_probe, forward, watched

_known: WeakKeyDictionary[nn.Module, dict[tuple, int]] = WeakKeyDictionary()


def step_peak(denoiser: Denoiser, batch: Batch, config: TrainConfig, ranks: Sequence[int]) -> int:
    """Most bytes at once in forward and backward pass: activations, and gradients of the factors.

    ranks: one a component, in the file's order. Raises as dry_step does. Takes seconds for a large
    network, and so is remembered for as long as that lives.
    """
    shapes = tuple(tuple(t.shape) for t in (batch.latents, *batch.conditioning.values()))
    key = shapes, denoiser.dtype, replace(config, seed=0), tuple(ranks)
    known = _known.setdefault(denoiser.network, {})
    if key not in known:
        live = _Live()
        dry_step(denoiser, batch, config, ranks, live)
        known[key] = live.peak
    return known[key]


def has_shape_alone(tensor: Tensor) -> bool:
    """Whether this is a tensor of a step that is counted, which nobody can look into."""
    return isinstance(tensor, FakeTensor)


def dry_step(
    denoiser: Denoiser,
    batch: Batch,
    config: TrainConfig,
    ranks: Sequence[int],
    watching: TorchDispatchMode,
) -> None:
    """Forward and backward pass of a step, without memory and without results, under `watching`.

    Nothing of the denoiser is changed, and no random number of the run is drawn. Raises whatever a
    network raises that cannot run without data.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        adapters = ordered_adapters(denoiser, config.targets, 1, moments=False)
        for adapter, rank in zip(adapters, ranks, strict=True):
            rows = (torch.zeros(rank, n) for n in (adapter.in_features, adapter.out_features))
            adapter.set_rank(rank, *rows)
            if config.method == "lora2":
                adapter.scale = nn.Parameter(torch.ones(rank, device=denoiser.device))
        probe = entropy_probe(denoiser, config)
        dtype = DTYPES[config.dtype]
        with (
            attached(adapters),
            watched(denoiser, config, probe),
            watching,
            half_factors(adapters, dtype),
        ):
            loss, entropy = forward(denoiser, batch, config, probe, torch.Generator(), None)
            (loss if entropy is None else loss + config.lambda_e * entropy).backward()


class _Live(TorchDispatchMode):
    """now, peak: bytes of all storages that operations within the block have made."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(returned.alias_info is not None for returned in func._schema.returns):
            return out  # a view, or written in place: of a storage that is there
        for found in tree_iter(out):
            if isinstance(found, Tensor):
                storage = found.untyped_storage()
                size = storage.nbytes()
                self.now += size
                weakref.finalize(storage, self._freed, size)
        self.peak = max(self.peak, self.now)
        return out

    def _freed(self, size: int) -> None:
        self.now -= size
