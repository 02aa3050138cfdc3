"""Loss against bytes, as a picture. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora2_core.errors import LoRA2Error

from .contestants import CONTESTANTS, FIXED, REFERENCE
from .intervals import paired
from .table import loss, megabytes, values

_PANELS = (("subject", "fidelity"), ("general", "forgetting"))
_GREY, _BLUE, _RED = "#8a8f98", "#2f6fd0", "#c8503c"
_SHOWN = (  # beside the fixed ranks; all are in the table
    "lora2", "lora2_low", "lora2_high", "lora2_lower_rate", "lora2_no_rank_term", "lora_16_cut",
    "lora_64_cut", "nu_term_low", "nu_term_high", "paper", "ac_product", "ac_paper",
)  # fmt: skip


def points(records: Sequence[Mapping], probe: str) -> dict[str, tuple[float, float, float]]:
    """Contestant → (MB, loss less that of REFERENCE, half of its interval), where it has bytes."""
    found = {}
    own = values(records, REFERENCE, loss(probe))
    for name in CONTESTANTS:
        losses, sizes = values(records, name, loss(probe)), values(records, name, megabytes)
        if losses and own and sum(sizes.values()) > 0:
            gap = paired(losses, own)
            found[name] = sum(sizes.values()) / len(sizes), gap.mean, gap.half
    return found


def draw(records: Sequence[Mapping], path: Path) -> None:
    """Raises LoRA2Error without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise LoRA2Error("the picture needs matplotlib; pip install matplotlib") from None
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    fixed = [f"lora_{rank}" for rank in FIXED]
    for axes, (probe, title) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        found = points(records, probe)
        for name in [*fixed, *_SHOWN]:
            if name not in found:
                continue
            size, middle, half = found[name]
            colour = _GREY if name in fixed else _BLUE if name.startswith("lora2") else _RED
            axes.errorbar(size, middle, half, fmt="o", ms=5, color=colour, lw=0.9, capsize=2)
            axes.annotate(name, (size, middle), (5, 4), textcoords="offset points", fontsize=8)
        line = [found[name][:2] for name in fixed if name in found]
        if line:
            axes.plot(*zip(*line, strict=True), color=_GREY, lw=0.8)
        axes.axhline(0, color=_BLUE, lw=0.6, ls=":")
        axes.set(xscale="log", title=f"{title} (lower is better)", xlabel="MB in half precision")
        axes.set_ylabel(f"loss less that of {REFERENCE}, % of the base's")
        axes.grid(alpha=0.3, lw=0.5)
    figure.savefig(path, dpi=110)
