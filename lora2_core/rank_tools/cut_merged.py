"""A merge that is cut as one adapter, by what it does as a whole."""

from collections.abc import Callable
from dataclasses import replace

import torch

from .adapters import Adapter
from .compress import compress
from .cut import Cut
from .metadata import Described
from .outcome import Outcome


def cut_merged(
    whole: Outcome,
    adapter: Adapter,
    cut: Cut,
    *,
    dtype: torch.dtype = torch.float32,
    saved_as: torch.dtype | None = None,
    on_component: Callable[[int, int], None] | None = None,
) -> Outcome:
    """The merge after the cut. Its metadata, the ranks before and what is said of tensors beside
    the components stay those of the merge.

    whole: of a merge without a cut. adapter: whole.state as open_adapter gives it, measured. dtype,
    saved_as, on_component: as in compress.
    """
    outcome = compress(
        adapter,
        cut,
        dtype=dtype,
        saved_as=saved_as,
        described=Described(whole.state.metadata, whole.left_out),
        on_component=on_component,
    )
    before = [row.before for row in whole.rows]
    rows = [replace(row, before=b) for row, b in zip(outcome.rows, before, strict=True)]
    return replace(outcome, rows=rows, beside=whole.beside)
