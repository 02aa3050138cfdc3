"""What ranks an adapter has: rows that the viewer draws, ready for JSON."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import prod

from torch import Tensor

from ..errors import LoRA2Error
from ..files.adapter_file import LoraState
from ..files.alphas import alphas, noted_alpha
from ..files.beside import MAGNITUDE, counted
from ..files.effect_note import noted_effects
from ..files.header import Header
from ..files.metadata import read_absent, read_rank_note
from ..files.module_names import canonical_names
from ..files.peft_settings import peft_settings
from ..files.stored import Contents, Stored, seen, seen_in_header, workable
from ..rank_tools.expand import Expanded
from ..rank_tools.outcome import Outcome
from .placement import Place, outline, places

FORMAT = 1


def report(state: LoraState, found: Contents | None = None, base: str | None = None) -> dict:
    """Ranks and sizes of an adapter in memory.

    {"format", "method", "totals": {components, bytes, parameters, mean_rank, weighted_mean_rank,
    min_rank, max_rank, rank_one, rank_zero}, "components": [{name, section, block, row, column,
    rank, shape [m, n…], alpha, nu, bytes}…], "rows": [{row, section, block}…], "columns": […]}.
    section to column: placement.Place; rows and columns are those that occur, in forward order.
    alpha is null where the file has none (scale 1); nu and method are null where unknown. bytes
    count factors and alpha as they are held. weighted_mean_rank weighs each component by its
    parameters a unit of rank, m + n. A component that is not two factors alone says in `kind` what
    it is; `beside`, where anything is beside the components, how many tensors of what kind. A
    component that a training has brought to rank 0 is a row of 0 bytes. Where the file notes what
    its rows do to the loss (files.effect_note), each component has its share of that, `effect`.
    found: stored.contents, if they are known. base: the
    base model, if it is known (module_names.named). Raises LoRA2Error for what
    adapter_file.components refuses.
    """
    found = found or workable(seen(state))
    sizes = {key: _held(tensor) for key, tensor in state.items()}
    return _report(found, sizes, alphas(state, found.components), state.metadata, base)


def report_from_header(header: Header, base: str | None = None) -> dict:
    """The same from a file's header alone. alpha is null where it is a tensor's value, or cannot be
    told."""
    sizes = {key: info.end - info.start for key, info in header.tensors.items()}
    inside = workable(seen_in_header(header))
    noted = _noted(inside.components, header)
    return _report(inside, sizes, noted, header.metadata, base)


def _noted(listed: list[Stored], header: Header) -> dict[str, float | None]:
    settings = peft_settings(header.metadata)
    found = {}
    for stored in listed if settings is not None else ():
        with suppress(LoRA2Error):  # the ranks can still be shown
            found[stored.name] = None if stored.alpha else noted_alpha(stored, settings)
    return found


def with_cut(report: dict, outcome: Outcome | Expanded) -> dict:
    """A report with what a cut kept: `retained`, a share of the energy Σσ² (by effect, of what it
    did to the loss), and `before`, the rank, of every component that was there. In the totals,
    `retained` of all together, and `of`, what the shares are of: "energy" or "effect"."""
    rows = {row.name: {"before": row.before, "retained": row.retained} for row in outcome.rows}
    components = [row | rows.get(row["name"], {}) for row in report["components"]]
    totals = report["totals"] | {"retained": outcome.retained, "of": outcome.measure}
    return report | {"totals": totals, "components": components}


def of_rows(rows: Sequence[Mapping], method: str | None) -> dict:
    """A report of its components' rows: totals, and the rows and columns that occur."""
    ranks = [row["rank"] for row in rows]
    weights = [row["shape"][0] + prod(row["shape"][1:]) for row in rows]
    if not rows:  # a file of norms and biases alone
        ranks, weights = [0], [1]
    parameters = sum(rank * weight for rank, weight in zip(ranks, weights, strict=True))
    totals = {
        "components": len(rows),
        "bytes": sum(row["bytes"] for row in rows),
        "parameters": parameters,
        "mean_rank": sum(ranks) / len(ranks),
        "weighted_mean_rank": parameters / sum(weights),
        "min_rank": min(ranks),
        "max_rank": max(ranks),
        "rank_one": ranks.count(1),
        "rank_zero": sum(row["rank"] == 0 for row in rows),
    }
    found = {"format": FORMAT, "method": method, "totals": totals, "components": list(rows)}
    return found | outline(Place(*(row[key] for key in Place._fields)) for row in rows)


def _report(
    inside: Contents,
    sizes: Mapping[str, int],
    alpha_of: Mapping[str, float | None],
    metadata: Mapping[str, str],
    base: str | None,
) -> dict:
    method, noted = read_rank_note(metadata)
    rows = []
    shapes = {stored.name: stored.shape for stored in inside.components}
    absent = {name: s for name, s in read_absent(metadata).items() if name not in shapes}
    placed = _places(shapes | absent, base)
    effects = _effects(inside.components, metadata)
    dora = {extra.name for extra in inside.extras if extra.kind is MAGNITUDE}
    for stored in inside.components:
        nu, rank = noted.get(stored.name, (None, None))
        kind = _kind(stored, stored.name in dora)
        rows.append(
            {
                "name": stored.name,
                **placed[stored.name]._asdict(),
                "rank": stored.rank,
                "shape": list(stored.shape),
                "alpha": alpha_of.get(stored.name),
                # a merge or a truncation changes the rank, and ν then no longer tells of it
                "nu": nu if rank == stored.rank else None,
                "bytes": sum(sizes[key] for key in stored.keys),
            }
            | ({"kind": kind} if kind else {})
        )
    rows += [
        {
            "name": name, **placed[name]._asdict(), "rank": 0, "shape": list(shape), "alpha": None,
            "nu": None, "bytes": 0,
        }
        for name, shape in absent.items()
    ]  # fmt: skip
    for row in rows if effects else ():
        row["effect"] = effects.get(row["name"], 0.0)
    beside = counted(inside.extras)
    return of_rows(rows, method) | ({"beside": beside} if beside else {})


def _kind(stored: Stored, dora: bool) -> str:
    """What a component is, "" for two factors."""
    form = stored.kind or ("Tucker" if stored.mid is not None else "")
    return " ".join(filter(None, ("DoRA" if dora else "", form)))


def _effects(listed: list[Stored], metadata: Mapping[str, str]) -> dict[str, float]:
    """Component → share of the whole effect; {} where the note is not of this file's rows."""
    noted = noted_effects(metadata, {one.name: one.rank for one in listed})
    sums = {name: float(own.sum()) for name, own in noted.items()}
    whole = sum(sums.values())
    return {name: size / whole for name, size in sums.items()} if whole > 0 else {}


def _places(shapes: Mapping[str, tuple[int, ...]], base: str | None) -> dict[str, Place]:
    try:
        names = canonical_names(shapes, base)
    except LoRA2Error:  # one layer under two names; a report can still be given
        names = {}
        for name, shape in shapes.items():
            names |= canonical_names({name: shape})
    return places(names)


def _held(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
