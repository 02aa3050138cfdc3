"""Blocks whose activations are computed again in the backward pass.

What the entropy probe sees within a block leaves it as outputs of its own, so that it is recomputed
like any other activation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.checkpoint import checkpoint

from .entropy import EntropyProbe, Seen


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
    def wrapper(*args, **kwargs):
        args, kwargs = _with_own_dicts(args, kwargs)
        heads: list[int] = []

        def run(*args, **kwargs):
            args, kwargs = _with_own_dicts(args, kwargs)
            if probe is None:
                return (forward(*args, **kwargs),)
            with probe.apart() as seen:
                output = forward(*args, **kwargs)
            heads[:] = [one.heads for one in seen]
            return output, *(part for one in seen for part in (one.query, one.key))

        output, *parts = checkpoint(
            run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )
        if probe is not None:
            probe.add([Seen(*both) for both in zip(parts[::2], parts[1::2], heads, strict=True)])
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
