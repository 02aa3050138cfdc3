"""One adapter, with less in it."""

from collections.abc import Callable

import torch

from .adapters import Adapter
from .assemble import Part, assemble
from .carried import of_one
from .cut import Cut
from .metadata import Described, of_compressed
from .outcome import Outcome


def compress(
    adapter: Adapter,
    cut: Cut,
    *,
    dtype: torch.dtype = torch.float32,
    saved_as: torch.dtype | None = None,
    described: Described | None = None,
    on_component: Callable[[int, int], None] | None = None,
) -> Outcome:
    """The adapter after the cut, its components under kohya's names, and what lies beside them.

    dtype: of the result's factors. saved_as: of the file that a megabytes budget is for, if it is
    another. described: metadata of the result, if it is not that of a compressed adapter.
    on_component(done, all) is called as the work goes on and may raise to stop it.
    """
    parts = [
        Part(
            name,
            stored,
            stored.rank,
            lambda name=name: adapter.factors(name),
            f"{name} of {adapter.name}",
            adapter.known(name, cut.how),
            adapter.effects.get(name),
        )
        for name, stored in adapter.components.items()
    ]
    described = described or of_compressed(adapter)
    return assemble(parts, cut, described, dtype, saved_as or dtype, on_component, of_one(adapter))
