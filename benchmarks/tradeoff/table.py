"""What came out, as Markdown."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from .adaptivity import share_between
from .best import best_runs, cell, is_open
from .contestants import CONTESTANTS, REFERENCE, WHOLE
from .cutting import THOUSANDS
from .frontier import forgetting_at, level_of_both, points
from .intervals import Interval, differences, interval, over_tasks
from .pictures import ANCHORS, SCORES
from .tasks import Task

Records = Sequence[Mapping]
Values = dict[tuple[str, int], float]  # (task, seed) → number
_SIZE, _FIDELITY, _FORGETTING = range(3)  # of what is known of a cut
_OPEN = "?"  # behind a rate that the search may yet leave
UNCUT = f"{REFERENCE}, uncut"


def markdown(
    records: Records, tasks: Mapping[str, Task], drawn: Records = (), left_out: int = 0
) -> str:
    """records: of study.FILE, drawn: of pictures.FILE. Whatever is missing is left out."""
    here = [name for name in tasks if any(record["task"] == name for record in records)]
    parts = [
        "# LoRA² beside fixed ranks and other adaptive methods, on the demo model",
        _counts(records, len(here), left_out),
        "Fidelity is the denoising loss on unseen pictures of what was learned, forgetting that on "
        "scenes without it, per cent above the base's; lower is better for both. Each contestant "
        f"is at its best rate. Each Δ is the paired difference from {REFERENCE} with its interval "
        "at 95 %, Student's; bold where that leaves out 0. `s` are seconds of training; a rate "
        f"with {_OPEN} is the best so far of a search that has not ended.",
        "## Over all tasks",
        "Δ by task, the interval over tasks; forgetting, too, where the more faithful of the two "
        "is brought to the other's best fidelity by rate, cut or strength.",
        _overall(records, here),
    ]
    for name in here:
        parts += [f"## {name}", f"{tasks[name].steps} steps.", _at_best(records, name)]
        for thousand in THOUSANDS:
            if rows := _at_size(records, name, thousand):
                parts += [f"### {name}: cut to {thousand}k parameters", rows]
        if rows := _at_equal_fidelity(records, name):
            parts += [
                f"### {name}: at equal fidelity",
                "Forgetting at the best fidelity of the less faithful of the two.",
                rows,
            ]
    parts += [
        "## Mean rank by task",
        "Of the file; `between` is the share of the variance that is the task's, not the seed's.",
        _ranks(records, here),
    ]
    if drawn:
        parts += [
            "## Pictures",
            "identified: shares nearest to the right one of its kind, twins and strangers beside "
            "it; confused: nearer to another subject that was learned; background: where asked. "
            "`renders` are real ones through the autoencoder, which is the ceiling.",
            _pictures(drawn),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def at_best(records: Records, task: str, row: str, of: Callable[[Mapping], float]) -> Values:
    """(task, seed) → what `of` takes from the run at the best rate."""
    name = REFERENCE if row == UNCUT else row
    return {(task, seed): of(run) for seed, run in best_runs(records, task, name).items()}


def of_cut(records: Records, task: str, row: str, cut: str, column: int) -> Values:
    """(task, seed) → a number of a cut at the best rate; of the whole where that is no larger than
    the cut would be."""
    return at_best(records, task, row, lambda run: run["cuts"].get(cut, run["cuts"][WHOLE])[column])


def saved(row: str) -> str:
    """The cut that a row of the table is about."""
    return WHOLE if row == UNCUT else CONTESTANTS[row].saved


def equal_fidelity(
    records: Records, task: str, name: str
) -> dict[tuple[str, int], tuple[float, float, float]]:
    """(task, seed) → (fidelity, the reference's forgetting there, the contestant's)."""
    found = {}
    ours, theirs = (_by_seed(cell(records, task, one)) for one in (REFERENCE, name))
    for seed in sorted(ours.keys() & theirs.keys()):
        both = points(ours[seed]), points(theirs[seed])
        level = level_of_both(*both)
        found[task, seed] = (level, *(forgetting_at(one, level) for one in both))
    return found


def _by_seed(records: Records) -> dict[int, list[Mapping]]:
    found: dict[int, list[Mapping]] = {}
    for record in records:
        if "cuts" in record:
            found.setdefault(record["seed"], []).append(record)
    return found


def _counts(records: Records, tasks: int, left_out: int) -> str:
    seeds = {record["seed"] for record in records}
    text = f"{len(records)} runs, {tasks} tasks, {len(seeds)} seeds"
    if diverged := sum("diverged" in record for record in records):
        text += f", {diverged} diverged"
    if left_out:
        text += f"; {left_out} results of other weights, settings or subjects were left out"
    return text + "."


def _rows(records: Records) -> list[str]:
    """What a table has rows of: who is there, and the reference before its cut."""
    present = {record["contestant"] for record in records}
    found = [name for name in CONTESTANTS if name in present]
    if REFERENCE in present:
        found.insert(1, UNCUT)
    return found


def _overall(records: Records, tasks: Sequence[str]) -> str:
    rows = []
    for row in _rows(records):
        if row == REFERENCE:
            continue
        cells, count = [], 0
        for column in (_FIDELITY, _FORGETTING):
            gaps: Values = {}
            for task in tasks:
                own = of_cut(records, task, row, saved(row), column)
                gaps |= differences(own, of_cut(records, task, REFERENCE, saved(REFERENCE), column))
            count = len({task for task, _ in gaps})
            cells.append(_signed(over_tasks(gaps)) if gaps else "")
        equal = {}
        if row != UNCUT:
            for task in tasks:
                found = equal_fidelity(records, task, row)
                equal |= {key: theirs - ours for key, (_, ours, theirs) in found.items()}
        cells.append(_signed(over_tasks(equal)) if equal else "")
        rows.append([row, str(count), *cells])
    return _table(["", "tasks", "fidelity Δ", "forgetting Δ", "at equal fidelity Δ"], rows)


def _at_best(records: Records, task: str) -> str:
    head = ["", "rate", "seeds", "MB", "mean rank", "fidelity", "Δ", "forgetting", "Δ", "s"]
    rows = []
    for row in _rows(records):
        name = REFERENCE if row == UNCUT else row
        runs = best_runs(records, task, name)
        if not runs:
            continue
        cut = saved(row)
        rank = "mean_rank" if cut == WHOLE else "saved_rank"
        rows.append([
            row,
            f"{next(iter(runs.values()))['rate']:.2g}{_OPEN * is_open(records, task, name)}",
            str(len(runs)),
            f"{2e-6 * fmean(run['cuts'][cut][_SIZE] for run in runs.values()):.3f}",
            f"{fmean(run[rank] for run in runs.values()):.2f}",
            *_beside(records, task, row, cut, saved(REFERENCE)),
            f"{fmean(run['seconds'] for run in runs.values()):.0f}",
        ])  # fmt: skip
    return _table(head, rows)


def _beside(records: Records, task: str, row: str, cut: str, other: str) -> list[str]:
    """[fidelity, Δ, forgetting, Δ] of a cut beside one of the reference's."""
    cells = []
    for column in (_FIDELITY, _FORGETTING):
        own = of_cut(records, task, row, cut, column)
        gaps = {}
        if row != REFERENCE:
            gaps = differences(own, of_cut(records, task, REFERENCE, other, column))
        cells.append(f"{fmean(own.values()):.2f}" if own else "")
        cells.append(_signed(interval(gaps.values())) if gaps else "")
    return cells


def _at_size(records: Records, task: str, thousand: int) -> str:
    """One table; "" where nothing was cut to that size."""
    head = ["", "fidelity, by effect", "Δ", "forgetting", "Δ", "fidelity, by σ", "forgetting"]
    rows = []
    for name in CONTESTANTS:
        if not best_runs(records, task, name):
            continue
        effect, sigma = (f"{how} {thousand}k" for how in ("effect", "σ"))
        by_sigma = _beside(records, task, name, sigma, sigma)
        own = _beside(records, task, name, effect, effect)
        rows.append([name, *own, by_sigma[0], by_sigma[2]])
    return _table(head, rows) if rows else ""


def _at_equal_fidelity(records: Records, task: str) -> str:
    rows = []
    for name in CONTESTANTS:
        found = {} if name == REFERENCE else equal_fidelity(records, task, name)
        if found:
            levels, ours, theirs = zip(*found.values(), strict=True)
            gaps = [other - own for own, other in zip(ours, theirs, strict=True)]
            means = [f"{fmean(numbers):.2f}" for numbers in (levels, ours, theirs)]
            rows.append([name, str(len(found)), *means, _signed(interval(gaps))])
    head = ["", "seeds", "fidelity", f"{REFERENCE} forgets", "it forgets", "Δ"]
    return _table(head, rows) if rows else ""


def _ranks(records: Records, tasks: Sequence[str]) -> str:
    rows = []
    for row in _rows(records):
        rank = "mean_rank" if saved(row) == WHOLE else "saved_rank"
        found: Values = {}
        for task in tasks:
            found |= at_best(records, task, row, lambda run, rank=rank: run[rank])
        means = [[value for (key, _), value in found.items() if key == task] for task in tasks]
        between = share_between(_at_common_seeds(found))
        rows.append([
            row,
            *(f"{fmean(values):.2f}" if values else "" for values in means),
            "" if between is None else f"{between:.2f}",
        ])  # fmt: skip
    return _table(["", *tasks, "between"], rows)


def _at_common_seeds(values: Values) -> Values:
    """Without the seeds that not every task has."""
    tasks = {task for task, _ in values}
    return {
        (task, seed): value
        for (task, seed), value in values.items()
        if all((other, seed) in values for other in tasks)
    }


def _pictures(drawn: Records) -> str:
    rows = []
    for name in (*ANCHORS, *CONTESTANTS):
        found = [record for record in drawn if record["contestant"] == name]
        if found:
            means = [f"{fmean(record[score] for record in found):.3f}" for score in SCORES]
            rows.append([name, str(len(found)), *means])
    return _table(["", "seeds", *SCORES], rows)


def _signed(found: Interval, digits: int = 2) -> str:
    text = f"{found.mean:+.{digits}f}"
    if found.count > 1:
        text += f" ± {found.half:.{digits}f}"
    return f"**{text}**" if found.clear else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
