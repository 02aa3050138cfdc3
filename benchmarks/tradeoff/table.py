"""What came out, as Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from lora2_core.drawn_world.subjects import Subject

from .adaptivity import complexity, share_between, spearman
from .contestants import CONTESTANTS, FIXED, REFERENCE
from .intervals import Interval, over_subjects, paired

Records = Sequence[Mapping]
Values = dict[tuple[str, int], float]


def values(records: Records, contestant: str, of: Callable[[Mapping], float | None]) -> Values:
    """(subject, seed) → what `of` takes from the contestant's record, where there is such."""
    found = {
        (record["subject"], record["seed"]): of(record)
        for record in records
        if record["contestant"] == contestant
    }
    return {key: value for key, value in found.items() if value is not None}


def loss(probe: str) -> Callable[[Mapping], float | None]:
    """Of the probe, per cent above the base's."""
    return lambda record: 100 * record["losses"][probe]["relative"] if "losses" in record else None


def picture(score: str) -> Callable[[Mapping], float | None]:
    return lambda record: record.get("pictures", {}).get(score)


def megabytes(record: Mapping) -> float | None:
    """Of the factors in half precision."""
    return 2e-6 * record["parameters"] if "parameters" in record else None


def mean_rank(record: Mapping) -> float | None:
    return fmean(record["ranks"]) if "ranks" in record else None


def markdown(records: Records, subjects: Mapping[str, Subject], refused: Sequence[str] = ()) -> str:
    """Four tables and the answer; subjects: of the file that the runs were made with."""
    present = [name for name in CONTESTANTS if any(r["contestant"] == name for r in records)]
    parts = [
        "# LoRA² against fixed ranks, on the demo model",
        _counts(records, refused),
        _answer(records, present),
        "## Denoising loss, per cent above the base's",
        "Fidelity is of unseen renders of the subject in unseen places (lower is better), "
        "forgetting of scenes without it, drift of plain objects of its kind (nearer 0 is better). "
        f"Each Δ is the paired difference from {REFERENCE}; bold where its interval leaves out 0.",
        _losses(records, present),
        "## Pictures drawn from equal noise",
        _pictures(records, present),
        "## Mean rank by subject",
        "Number of things that set the subject apart in brackets; `between` is the share of the "
        "variance that is the subject's and not the seed's, `follows` the rank correlation with "
        "that number.",
        _ranks(records, present, subjects),
        "## What pulls at ν",
        "|dL/dν| without the rank term, in the median component: of single steps, and of their "
        "mean over the run; `signal` is mean / root mean square, 1 if all steps agree.",
        _pulls(records, present),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counts(records: Records, refused: Sequence[str]) -> str:
    subjects = {record["subject"] for record in records}
    seeds = {record["seed"] for record in records}
    text = f"{len(records)} runs, {len(subjects)} subjects, {len(seeds)} seeds"
    diverged = sum("diverged" in record for record in records)
    if diverged:
        text += f", {diverged} diverged"
    if refused:
        text += f"; {len(refused)} results of other weights, judges or subjects were left out"
    return text + ". Intervals: 95 %, Student's, over subjects."


def _answer(records: Records, present: Sequence[str]) -> str:
    """The question in numbers; the best fixed rank is the one of the lowest mean loss."""
    complete = values(records, REFERENCE, loss("subject"))
    fixed = {}
    for name in (f"lora_{rank}" for rank in FIXED):
        found = values(records, name, loss("subject"))
        if found and found.keys() >= complete.keys():
            fixed[name] = fmean(found[key] for key in complete)
    if not complete or not fixed:
        return ""
    best = min(fixed, key=fixed.get)
    parts = []
    for probe, what in (("subject", "fidelity"), ("general", "forgetting"), ("kind", "drift")):
        gap = paired(values(records, REFERENCE, loss(probe)), values(records, best, loss(probe)))
        parts.append(f"{what} {_signed(gap)}")
    own, other = (fmean(values(records, n, megabytes).values()) for n in (REFERENCE, best))
    return (
        f"The best fixed rank is {best}. Against it {REFERENCE} takes {own / other:.2f} of the "
        f"bytes; its loss less that of {best}: {', '.join(parts)}."
    )


def _losses(records: Records, present: Sequence[str]) -> str:
    head = ["", "runs", "MB", "mean rank", "fidelity", "Δ", "forgetting", "Δ", "drift", "Δ", "s"]
    rows = []
    for name in present:
        if not values(records, name, loss("subject")):
            continue
        row = [name, str(len(values(records, name, loss("subject"))))]
        row.append(_plain(values(records, name, megabytes), 3))
        row.append(_plain(values(records, name, mean_rank), 2))
        for probe in ("subject", "general", "kind"):
            row += _beside(records, name, loss(probe), 2)
        row.append(_plain(values(records, name, _seconds), 0))
        rows.append(row)
    return _table(head, rows)


def _pictures(records: Records, present: Sequence[str]) -> str:
    scores = ("likeness", "identified", "background", "accessory", "colour")
    head = [""] + [part for score in scores for part in (score, "Δ")]
    rows = [
        [name, *(cell for score in scores for cell in _beside(records, name, picture(score), 3))]
        for name in present
        if values(records, name, picture("likeness"))
    ]
    return _table(head, rows) if rows else "No pictures were read."


def _ranks(records: Records, present: Sequence[str], subjects: Mapping[str, Subject]) -> str:
    tried = {record["subject"] for record in records}
    order = sorted((s for s in subjects if s in tried), key=lambda s: complexity(subjects[s]))
    head = ["", *(f"{name} ({complexity(subjects[name])})" for name in order)]
    rows = []
    for name in present:
        found = values(records, name, mean_rank)
        if len(set(found.values())) < 2:
            continue
        by_subject = {s: [v for (t, _), v in found.items() if t == s] for s in order}
        known = [s for s in order if by_subject[s]]
        means = [fmean(by_subject[s]) for s in known]
        row = [name, *(f"{fmean(v):.2f}" if v else "" for v in by_subject.values())]
        row.append(_number(share_between(found)))
        row.append(_number(spearman([complexity(subjects[s]) for s in known], means)))
        rows.append(row)
    return _table([*head, "between", "follows"], rows)


def _pulls(records: Records, present: Sequence[str]) -> str:
    keys = ("size_of_step", "size_of_mean", "signal", "early", "late")
    rows = []
    for name in present:
        found = [r for r in records if r["contestant"] == name and r.get("pull")]
        if found:
            settings = found[0]["stamp"]["settings"]
            cells = [f"{fmean(r['pull'][key] for r in found):.2g}" for key in keys]
            rows.append([name, f"{settings['lambda_r']:g}", *cells])
    return _table(["", "λ_r", "step", "mean", "signal", "early step", "late step"], rows)


def _seconds(record: Mapping) -> float | None:
    return record.get("seconds", {}).get("training")


def _beside(
    records: Records, name: str, of: Callable[[Mapping], float | None], digits: int
) -> list[str]:
    """[mean ± half, difference from the reference]."""
    found = values(records, name, of)
    if not found:
        return ["", ""]
    own = over_subjects(found)
    gap = None if name == REFERENCE else paired(found, values(records, REFERENCE, of))
    return [_spread(own, digits), "" if gap is None else _signed(gap, digits)]


def _spread(found: Interval, digits: int) -> str:
    return f"{found.mean:.{digits}f} ± {found.half:.{digits}f}"


def _signed(found: Interval, digits: int = 2) -> str:
    text = f"{found.mean:+.{digits}f} ± {found.half:.{digits}f}"
    return f"**{text}**" if found.clear else text


def _plain(found: Values, digits: int) -> str:
    return f"{fmean(found.values()):.{digits}f}" if found else ""


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
