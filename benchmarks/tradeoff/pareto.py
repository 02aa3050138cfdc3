"""Fidelity and forgetting against bytes, and against each other, as a picture. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from lora2_core.errors import LoRA2Error

from .best import best_runs, cell
from .contestants import CONTESTANTS, REFERENCE, WHOLE
from .frontier import Point, frontier, points
from .tasks import Task

_COLOURS = {
    "lora2": "#2f6fd0", "lora2_small": "#6fa8ee", "learned_nu": "#c05fb0",
    "lora_1": "#c9ccd2", "lora_4": "#a4a9b2", "lora_16": "#747a85",
    "lora_64": "#3f444d", "paper": "#c8503c", "ac_product": "#d99a2b", "ac_paper": "#8a6d3b",
    "lokr": "#4a9a62", "adalora": "#8a58b8",
}  # fmt: skip
_SIZES = ("effect 0.999", "effect 0.99", "effect 61k", "effect 31k", "effect 15k")


_TICKS = (0.03, 0.1, 0.3, 1, 3)  # MB
_LEAST = 0.6  # of the best fidelity: what is less faithful is not shown


def by_size(records: Sequence[Mapping], task: str, name: str, column: int) -> list[Point]:
    """(MB, fidelity or forgetting) of the whole and of its cuts by effect, the largest first, means
    over the seeds at the best rate. column: 1 or 2."""
    runs = list(best_runs(records, task, name).values())
    whole = _mean(runs, WHOLE, column)
    smaller = [_mean(runs, cut, column) for cut in _SIZES]
    return [whole, *sorted((p for p in smaller if p and p[0] < whole[0]), reverse=True)]


def _mean(runs: Sequence[Mapping], cut: str, column: int) -> Point | None:
    found = [run["cuts"][cut] for run in runs if cut in run["cuts"]]
    if len(found) < len(runs):
        return None
    return 2e-6 * fmean(one[0] for one in found), fmean(one[column] for one in found)


def _faithful(line: Sequence[Point]) -> list[Point]:
    return [point for point in line if point[0] <= _LEAST * line[-1][0]]


def draw(records: Sequence[Mapping], tasks: Mapping[str, Task], path: Path) -> None:
    """One column a task. Raises LoRA2Error without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter
    except ImportError:
        raise LoRA2Error("the picture needs matplotlib; pip install matplotlib") from None
    here = [name for name in tasks if any(record["task"] == name for record in records)]
    figure = Figure(figsize=(3.6 * len(here) + 1.2, 10.5), layout="constrained")
    grid = figure.subplots(3, len(here), squeeze=False)
    for column, task in enumerate(here):
        top, middle, bottom = (row[column] for row in grid)
        top.set_title(task, fontsize=10)
        for name in reversed(CONTESTANTS):
            if not best_runs(records, task, name):
                continue
            look = {"color": _COLOURS[name], "lw": 2.0 if name == REFERENCE else 1.1}
            for axes, which in ((top, 1), (middle, 2)):
                line = by_size(records, task, name, which)
                axes.plot(*zip(*line, strict=True), "-o", ms=2.5, label=name, **look)
                axes.plot(*line[0], "o", ms=6, color=_COLOURS[name])
            first = min(record["seed"] for record in cell(records, task, name))
            own = [r for r in cell(records, task, name) if r["seed"] == first]
            line = _faithful(frontier(points(own)))
            bottom.plot(*zip(*line, strict=True), "-o", ms=2.5, **look)
        for axes, what in ((top, "fidelity"), (middle, "forgetting")):
            axes.set(xscale="log", xlabel="MB in half precision", ylabel=f"{what}, %")
            axes.xaxis.set_major_locator(FixedLocator(_TICKS))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
        bottom.set(xlabel="fidelity, %", ylabel="forgetting, %")
        for axes in (top, middle, bottom):
            axes.grid(alpha=0.3, lw=0.5)
    handles = {}
    for axes in grid[0]:
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    order = [name for name in CONTESTANTS if name in handles]
    figure.suptitle("Lower is better in all of them", fontsize=10)
    figure.legend([handles[name] for name in order], order, loc="outside lower center", ncols=10)
    figure.savefig(path, dpi=90)
