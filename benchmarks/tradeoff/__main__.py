"""Command line."""

import argparse
import json
import sys
import time
from pathlib import Path

from lora2_core.drawn_world import load_subjects
from lora2_core.drawn_world.subjects import BUNDLED
from lora2_core.errors import LoRA2Error

from . import __doc__ as usage
from . import identity, judges, kept, pareto, pictures, reader, store, study, table
from .contestants import CONTESTANTS
from .tasks import Task, tasks

RESULTS = Path(__file__).resolve().parents[1] / "results" / "tradeoff"


def main() -> None:
    options = _parser().parse_args()
    try:
        if options.stage == "judges":
            _judges(options)
        elif options.stage == "table":
            _table(options)
        else:
            deadline = time.time() + 60 * options.minutes
            stage = study.go if options.stage == "run" else pictures.go
            extra = () if options.stage == "run" else (options.judges,)
            stage(
                options.results, options.cache, _tasks(options), options.contestants,
                options.seeds, options.jobs, deadline, *extra,
            )  # fmt: skip
    except LoRA2Error as error:
        sys.exit(f"{error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    running, drawing, telling, judging = (
        stages.add_parser(name) for name in ("run", "pictures", "table", "judges")
    )
    for stage in (running, drawing, telling, judging):
        stage.add_argument("--results", type=Path, default=RESULTS)
    for stage in (running, drawing, telling):
        stage.add_argument("--subjects", type=Path, default=BUNDLED, metavar="FILE")
    for stage in (running, drawing):
        stage.add_argument("--tasks", nargs="+", metavar="TASK", help='such as "10 subjects"')
        stage.add_argument(
            "--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS,
            metavar="NAME", help=", ".join(CONTESTANTS),
        )  # fmt: skip
        stage.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        stage.add_argument("--minutes", type=float, default=1e6, help="start nothing after them")
        stage.add_argument("--cache", type=Path, default=kept.FOLDER, help="of trained factors")
    for stage in (running, drawing, judging):
        stage.add_argument("--jobs", type=int, default=2, help="processes, each with one thread")
    for stage in (drawing, telling, judging):
        stage.add_argument("--judges", type=Path, default=judges.FOLDER, help="their folder")
    judging.add_argument("--work", type=Path, help="folder of the demo model's recipe")
    judging.add_argument("--pictures", type=int, default=12000, help="for the reader, if none is")
    judging.add_argument("--batches", type=int, default=1200, help="for the network of individuals")
    return parser


def _tasks(options: argparse.Namespace) -> dict[str, Task]:
    """Those asked for; all of the file if none are named."""
    known = tasks(load_subjects(options.subjects))
    for name in options.tasks or ():
        if name not in known:
            raise LoRA2Error(f"task is {name!r}; choose one of {', '.join(known)}")
    return {name: task for name, task in known.items() if name in (options.tasks or known)}


def _judges(options: argparse.Namespace) -> None:
    found = {
        "reader": reader.prepare(options.judges, options.work, options.pictures, options.jobs),
        "identity": identity.prepare(options.judges, options.batches, options.jobs),
        "stamp": store.judges_stamp(options.judges),
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "judges.json").write_text(json.dumps(found, ensure_ascii=False) + "\n")
    print(json.dumps(found, indent=2))


def _table(options: argparse.Namespace) -> None:
    known = tasks(load_subjects(options.subjects))
    found = study.results(options.results, known)
    if not found.records:
        raise LoRA2Error(f"there are no results of these tasks in {options.results}; run first")
    drawn = pictures.results(options.results, known, options.judges)
    text = table.markdown(found.records, known, drawn, found.left_out)
    (options.results / "table.md").write_text(text)
    print(text)
    pareto.draw(found.records, known, options.results / "pareto.png")


if __name__ == "__main__":
    main()
