"""The entropy of cross-attention, measured beside the fast kernel [LoRA², eq. 13].

Hooks on to_q and to_k see what the attention sees, adapters included; q·kᵀ is formed once more
for a random subset of the queries only. The entropy of a block leaves it as one of its outputs,
so that gradient checkpointing recomputes it like any other activation.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .losses import attention_entropy


class EntropyProbe:
    """Collects one entropy a cross-attention layer and forward pass.

    layers: modules with `to_q`, `to_k` and `heads`. queries: how many are sampled a layer.
    """

    def __init__(self, layers: list[nn.Module], queries: int, seed: int):
        self.layers = layers
        self.queries = queries
        self.seed = seed
        self.passes = 0
        self._found: list[Tensor] = []

    def begin(self) -> None:
        """Starts a forward pass: forgets the last one and draws another subset of queries."""
        self.passes += 1
        self._found = []

    def mean(self) -> Tensor:
        """Mean over the layers of the pass since begin(), in nats."""
        return torch.stack(self._found).mean()

    @contextmanager
    def attached(self) -> Iterator["EntropyProbe"]:
        """Watches the layers within the block."""
        with ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                seen: dict[str, Tensor] = {}
                for hook in (
                    layer.to_q.register_forward_hook(_keep(seen, "q")),
                    layer.to_k.register_forward_hook(_keep(seen, "k")),
                    layer.register_forward_hook(self._measure(index, seen)),
                ):
                    stack.callback(hook.remove)
            yield self

    @contextmanager
    def apart(self) -> Iterator[list[Tensor]]:
        """Collects into a list of its own within the block."""
        outer, self._found = self._found, []
        try:
            yield self._found
        finally:
            self._found = outer

    def add(self, entropies: tuple[Tensor, ...]) -> None:
        """Adds what a block returned."""
        self._found.extend(entropies)

    def _measure(self, index: int, seen: dict[str, Tensor]) -> Callable:
        def hook(layer, args, output):
            query, key = seen.pop("q"), seen.pop("k")
            query = self._subset(query, index)
            self._found.append(attention_entropy(query, key, layer.heads))

        return hook

    def _subset(self, query: Tensor, index: int) -> Tensor:
        count = query.shape[1]
        if count <= self.queries:
            return query
        # drawn from the pass and the layer, so that a recomputation picks the same queries
        generator = torch.Generator().manual_seed(
            hash((self.seed, self.passes, index)) & 0x7FFF_FFFF_FFFF_FFFF
        )
        chosen = torch.randperm(count, generator=generator)[: self.queries]
        return query[:, chosen.to(query.device)]


def _keep(seen: dict[str, Tensor], name: str) -> Callable:
    def hook(module, args, output):
        seen[name] = output

    return hook


@contextmanager
def blocks_checkpointed(
    blocks: list[nn.Module], probe: EntropyProbe | None, enabled: bool
) -> Iterator[None]:
    """Recomputes the activations of each block in the backward pass, within the `with`.

    The blocks' `forward` is replaced on the instance and put back. With `enabled` False nothing
    is touched.
    """
    if not enabled:
        yield
        return
    touched = []
    try:
        for block in blocks:
            if "forward" in vars(block):
                raise RuntimeError(f"the forward of {type(block).__name__} is already replaced")
            block.forward = _recomputed(block.forward, probe)
            touched.append(block)
        yield
    finally:
        for block in touched:
            del block.forward


def _recomputed(forward: Callable, probe: EntropyProbe | None) -> Callable:
    def run(*args, **kwargs):
        args, kwargs = _with_own_dicts(args, kwargs)
        if probe is None:
            return (forward(*args, **kwargs),)
        with probe.apart() as entropies:
            output = forward(*args, **kwargs)
        return output, *entropies

    def wrapper(*args, **kwargs):
        args, kwargs = _with_own_dicts(args, kwargs)
        output, *entropies = checkpoint(
            run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )
        if probe is not None:
            probe.add(tuple(entropies))
        return output

    return wrapper


def _with_own_dicts(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Copies dict arguments: a host changes them from block to block, a block within itself.

    Copied at the call and again at each run, so that the recomputation starts from the same.
    """
    return (
        tuple(dict(arg) if type(arg) is dict else arg for arg in args),
        {name: dict(arg) if type(arg) is dict else arg for name, arg in kwargs.items()},
    )
