"""The entropy of cross-attention, measured beside the fast kernel [LoRA², eq. 13].

Hooks on to_q and to_k see what the attention sees, adapters included; q·kᵀ is formed once more,
after the forward pass and for many layers at once, for a random subset of the queries only. The
queries and keys of a block leave it as outputs of its own, so that gradient checkpointing
recomputes them like any other activation.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_AT_ONCE = 8  # layers whose logits are in memory together


def attention_entropy(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Mean over batch, heads and queries of −Σ_tokens p log p [LoRA², eq. 13], in nats.

    query: [b, queries, heads·d], key: [b, tokens, heads·d], any float dtype; fp32 inside. log p
    comes from the logits, so that no log of a vanishing p is taken.
    """
    with torch.autocast(query.device.type, enabled=False):
        q = query.float().unflatten(-1, (heads, -1)).transpose(1, 2)
        k = key.float().unflatten(-1, (heads, -1)).transpose(1, 2)
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        log_p = logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1).mean()


@dataclass(frozen=True)
class Seen:
    """Of one attention: query [b, queries, heads·d] and key [b, tokens, heads·d]."""

    query: Tensor
    key: Tensor
    heads: int


class EntropyProbe:
    """Collects what tells the entropy of each cross-attention layer in a forward pass.

    layers: modules with `to_q`, `to_k` and `heads`. queries: how many are sampled a layer.
    """

    def __init__(self, layers: list[nn.Module], queries: int, seed: int):
        self.layers = layers
        self.queries = queries
        self.seed = seed
        self.passes = 0
        self._seen: list[Seen] = []
        self._chosen: dict[int, Tensor] = {}  # by how many queries there are: [layers, queries]

    def begin(self) -> None:
        """Starts a forward pass: forgets the last one and draws another subset of queries."""
        self.passes += 1
        self._seen = []
        self._chosen = {}

    def mean(self) -> Tensor:
        """Mean over the layers of the pass since begin(), in nats; once a pass."""
        seen, self._seen = self._seen, []
        total = sum(
            # logits are recomputed in the backward pass: together they outweigh all other memory
            len(some) * checkpoint(_entropy, some, use_reentrant=False, preserve_rng_state=False)
            for some in _alike(seen)
        )
        return total / len(seen)

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
    def apart(self) -> Iterator[list[Seen]]:
        """Collects into a list of its own within the block."""
        outer, self._seen = self._seen, []
        try:
            yield self._seen
        finally:
            self._seen = outer

    def add(self, seen: list[Seen]) -> None:
        """Adds what was collected apart."""
        self._seen.extend(seen)

    def _measure(self, index: int, seen: dict[str, Tensor]) -> Callable:
        def hook(layer, args, output):
            query, key = seen.pop("q"), seen.pop("k")
            self._seen.append(Seen(self._subset(query, index), key, layer.heads))

        return hook

    def _subset(self, query: Tensor, index: int) -> Tensor:
        count = query.shape[1]
        if count <= self.queries:
            return query
        if count not in self._chosen:
            # for all layers in one copy to the device, each of which would wait for it; and kept,
            # so that a recomputation picks the same queries
            self._chosen[count] = self._draw(count).to(query.device)
        # its backward pass adds, where that of an index would sort first
        return query.index_select(1, self._chosen[count][index])

    def _draw(self, count: int) -> Tensor:
        """[layers, queries]: one index from each of `queries` equal parts of 0..count−1."""
        seed = hash((self.seed, self.passes)) & 0x7FFF_FFFF_FFFF_FFFF
        generator = torch.Generator().manual_seed(seed)
        shape = len(self.layers), self.queries
        within = torch.rand(shape, generator=generator, dtype=torch.float64)
        places = (torch.arange(self.queries) + within) * (count / self.queries)
        return places.long().clamp_(max=count - 1)


def _alike(seen: list[Seen]) -> Iterator[list[Seen]]:
    """Groups of equal shapes, of at most _AT_ONCE."""
    groups: dict[tuple, list[Seen]] = {}
    for one in seen:
        groups.setdefault((one.query.shape, one.key.shape, one.heads), []).append(one)
    for group in groups.values():
        for start in range(0, len(group), _AT_ONCE):
            yield group[start : start + _AT_ONCE]


def _entropy(some: list[Seen]) -> Tensor:
    """Mean over layers of equal shapes, which count as more images of a batch."""
    query = torch.cat([one.query for one in some])
    key = torch.cat([one.key for one in some])
    return attention_entropy(query, key, some[0].heads)


def _keep(seen: dict[str, Tensor], name: str) -> Callable:
    def hook(module, args, output):
        seen[name] = output

    return hook
