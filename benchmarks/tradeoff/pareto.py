"""Loss against bytes, as a picture. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora2_core.errors import LoRA2Error

from .contestants import CONTESTANTS, FIXED
from .intervals import over_subjects
from .table import loss, megabytes, values

_PANELS = (("subject", "fidelity"), ("general", "forgetting"))
_GREY, _BLUE, _RED = "#8a8f98", "#2f6fd0", "#c8503c"


def points(records: Sequence[Mapping], probe: str) -> dict[str, tuple[float, float, float]]:
    """Contestant → (MB, loss, half of its interval), where it has bytes."""
    found = {}
    for name in CONTESTANTS:
        losses, sizes = values(records, name, loss(probe)), values(records, name, megabytes)
        if losses and sum(sizes.values()) > 0:
            spread = over_subjects(losses)
            found[name] = sum(sizes.values()) / len(sizes), spread.mean, spread.half
    return found


def front(found: Mapping[str, tuple[float, float, float]]) -> list[str]:
    """Those that no other beats in both bytes and loss, by bytes."""
    kept, least = [], float("inf")
    for name in sorted(found, key=lambda name: found[name][:2]):
        if found[name][1] < least:
            kept.append(name)
            least = found[name][1]
    return kept


def draw(records: Sequence[Mapping], path: Path) -> None:
    """Raises LoRA2Error without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise LoRA2Error("the picture needs matplotlib; pip install matplotlib") from None
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    for axes, (probe, title) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        found = points(records, probe)
        for name, (size, middle, half) in found.items():
            fixed = name in {f"lora_{rank}" for rank in FIXED}
            colour = (
                _GREY if fixed else _BLUE if name.startswith(("lora2", "paper", "tuned")) else _RED
            )
            axes.errorbar(size, middle, half, fmt="o", ms=4, color=colour, lw=0.8, capsize=2)
            axes.annotate(name, (size, middle), (4, 3), textcoords="offset points", fontsize=7)
        line = [found[f"lora_{rank}"][:2] for rank in FIXED if f"lora_{rank}" in found]
        if line:
            axes.plot(*zip(*line, strict=True), color=_GREY, lw=0.8)
        if probe == "subject":
            best = [found[name][:2] for name in front(found)]
            axes.step(*zip(*best, strict=True), where="post", color=_BLUE, lw=0.6, ls=":")
        axes.set(xscale="log", title=title, xlabel="MB in half precision")
        axes.set_ylabel("loss above the base's, %")
        axes.grid(alpha=0.3, lw=0.5)
    figure.savefig(path, dpi=130)
