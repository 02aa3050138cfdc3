"""Learned ranks as a thing of their own: where another run starts, or what it keeps to.

A map is a rank report (rank_report.report), or as much of one as names its components and ranks.
"""

import json
import math
from collections.abc import Mapping, Sequence

from ..errors import LoRA2Error
from ..files.module_names import named
from . import rank_report

_PLACED = ("section", "block", "row", "column")


def parse(text: str) -> dict:
    """A rank report from JSON text; raises LoRA2Error if it is none."""
    try:
        report = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoRA2Error(f"the rank report is not JSON ({error}); give it whole") from None
    of_report(report)
    return report


def of_report(report: Mapping) -> dict[str, int]:
    """Component, by kohya's name of its layer → rank; raises LoRA2Error for anything else.

    Names of other styles are understood if the report has the shapes too.
    """
    return _of_reports([report])[0]


def assumed(reports: Sequence[Mapping], base: str | None = None) -> bool:
    """Whether blocks of these, averaged together, are read as SDXL's for want of a sign."""
    return named([one for one in _shapes(reports) if one is not None], base).assumed


def _of_reports(reports: Sequence[Mapping], base: str | None = None) -> list[dict[str, int]]:
    """The same of several that belong together, so that one tells how another's blocks count."""
    found = [_ranks(report) for report in reports]
    shapes = _shapes(reports)
    names = iter(named([one for one in shapes if one is not None], base).names)
    return [
        ranks if own is None else _renamed(ranks, next(names))
        for ranks, own in zip(found, shapes, strict=True)
    ]


def _shapes(reports: Sequence[Mapping]) -> list[dict[str, tuple[int, ...]] | None]:
    """Component → shape, None of a report that does not have all of them."""
    found = [{row["name"]: row.get("shape") for row in report["components"]} for report in reports]
    return [
        {name: tuple(shape) for name, shape in own.items()}
        if all(map(_is_shape, own.values()))
        else None
        for own in found
    ]


def _renamed(ranks: Mapping[str, int], names: Mapping[str, str]) -> dict[str, int]:
    return {names[name]: rank for name, rank in ranks.items()}


def _ranks(report: Mapping) -> dict[str, int]:
    """Component as the report names it → rank."""
    rows = report.get("components") if isinstance(report, Mapping) else None
    try:
        found = {row["name"]: row["rank"] for row in rows}
    except (TypeError, KeyError):
        found = {}
    if not found or not all(
        isinstance(name, str) and type(rank) is int and rank >= 0 for name, rank in found.items()
    ):
        raise LoRA2Error(
            'this is no rank report; it needs "components", each with "name" and "rank", as a '
            "training, `inspect --json` or the rank heatmap gives it"
        )
    return found


def averaged(reports: Sequence[Mapping], base: str | None = None) -> dict:
    """The report of the mean rank of every component, over the reports that have it.

    Rounded, halves up, at least 1; bytes in half precision. base: the base model, if it is known
    (module_names.named). Raises LoRA2Error if there is none, if
    one is not whole, or if a layer has two shapes.
    """
    if not reports:
        raise LoRA2Error("there are no ranks to average; give at least one adapter or report")
    ranks: dict[str, list[int]] = {}
    rows: dict[str, dict] = {}
    for report, found in zip(reports, _of_reports(reports, base), strict=True):
        for (name, rank), row in zip(found.items(), report["components"], strict=True):
            placed = all(isinstance(row.get(key), str) for key in _PLACED)
            if not placed or not _is_shape(row.get("shape")):
                raise LoRA2Error(
                    f"the rank report says too little of {row['name'][:200]!r}: it needs its "
                    f"shape and its place ({', '.join(_PLACED)}), as `inspect --json` gives them"
                )
            first = rows.setdefault(name, row)
            if _flat(first["shape"]) != _flat(row["shape"]):
                raise LoRA2Error(
                    f"{name[:200]!r} is {first['shape']} in one report and {row['shape']} in "
                    "another; average adapters of one base model"
                )
            ranks.setdefault(name, []).append(rank)
    listed = []
    for name, row in rows.items():
        rank = max(1, math.floor(sum(ranks[name]) / len(ranks[name]) + 0.5))
        out, *into = row["shape"]
        listed.append(
            {"name": name, **{key: row[key] for key in _PLACED}, "rank": rank}
            | {"shape": row["shape"], "alpha": None, "nu": None}
            | {"bytes": 2 * rank * (out + math.prod(into))}
        )
    return rank_report.of_rows(listed, method=None)


def _flat(shape: Sequence[int]) -> tuple[int, int]:
    """A matrix, a 1×1 convolution and a flattened one are one layer."""
    return shape[0], math.prod(shape[1:])


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(type(size) is int for size in value)
