"""One adapter, with less in it."""

from collections.abc import Callable

import torch

from .adapters import Adapter
from .assemble import Part, assemble
from .cut import Cut
from .metadata import of_compressed
from .outcome import Outcome


def compress(
    adapter: Adapter,
    cut: Cut,
    *,
    dtype: torch.dtype = torch.float32,
    on_component: Callable[[int, int], None] | None = None,
) -> Outcome:
    """The adapter after the cut, its components under kohya's names.

    dtype: of the result's factors; a megabytes budget counts in it. on_component(done, all) is
    called as the work goes on and may raise to stop it.
    """
    parts = [
        Part(name, stored, lambda name=name: adapter.factors(name))
        for name, stored in adapter.components.items()
    ]
    return assemble(parts, cut, of_compressed(adapter), dtype, on_component)
