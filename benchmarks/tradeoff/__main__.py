"""Command line."""

import argparse
import json
import sys
import time
from pathlib import Path

from lora2_core.drawn_world import load_subjects
from lora2_core.drawn_world.subjects import BUNDLED, Subject
from lora2_core.errors import LoRA2Error

from . import __doc__ as usage
from . import identity, judges, pareto, reader, schedule, store, table, tune
from .contestants import CONTESTANTS

RESULTS = Path(__file__).resolve().parents[1] / "results" / "tradeoff"


def main() -> None:
    options = _parser().parse_args()
    deadline = time.time() + 60 * options.minutes
    try:
        if options.stage == "judges":
            _judges(options)
        elif options.stage == "tune":
            tune.tune(
                options.results, _chosen(options, [options.subject])[0],
                options.contestants, options.steps, options.jobs, deadline,
            )  # fmt: skip
        elif options.stage == "run":
            schedule.run(
                options.results, None if options.no_pictures else options.judges,
                _chosen(options, options.only), options.seeds, options.contestants,
                options.steps, options.jobs, deadline,
            )  # fmt: skip
        else:
            _table(options)
    except LoRA2Error as error:
        sys.exit(f"{error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--judges", type=Path, default=judges.FOLDER, help="folder of the judges")
    parser.add_argument("--minutes", type=float, default=1e6, help="start nothing new after them")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each with one thread")
    stages = parser.add_subparsers(dest="stage", required=True)
    stage = stages.add_parser("judges")
    stage.add_argument("--work", type=Path, help="folder of the demo model's recipe")
    stage.add_argument("--pictures", type=int, default=12000, help="for the reader, if none exist")
    stage.add_argument("--batches", type=int, default=1200, help="for the network of individuals")
    tuning, running, telling = (stages.add_parser(name) for name in ("tune", "run", "table"))
    for stage in (tuning, running, telling):
        stage.add_argument("--subjects", type=Path, default=BUNDLED, metavar="FILE")
        stage.add_argument("--steps", type=int, default=300)
    for stage in (tuning, running):
        stage.add_argument(
            "--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS,
            metavar="NAME", help=", ".join(CONTESTANTS),
        )  # fmt: skip
    tuning.add_argument("--subject", default="garden vase", help="the one to tune on")
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    running.add_argument("--only", nargs="+", metavar="SUBJECT", help="not all but --without")
    running.add_argument("--no-pictures", action="store_true", help="losses alone; no judges")
    for stage in (running, telling):
        stage.add_argument("--without", default="garden vase", help="the one tuned on")
    return parser


def _judges(options: argparse.Namespace) -> None:
    found = {
        "reader": reader.prepare(options.judges, options.work, options.pictures, options.jobs),
        "identity": identity.prepare(options.judges, options.batches, options.jobs),
        "stamp": store.judges_stamp(options.judges),
    }
    store.write(options.results / "judges.json", found)
    print(json.dumps(found, indent=2))


def _chosen(options: argparse.Namespace, names: list[str] | None) -> list[Subject]:
    """Those subjects of the file; all but the one tuned on if no names are given."""
    subjects = load_subjects(options.subjects)
    for name in names or []:
        if name not in subjects:
            raise LoRA2Error(f"subject is {name!r}; choose one of {', '.join(subjects)}")
    return [subjects[name] for name in names or subjects if names or name != options.without]


def _table(options: argparse.Namespace) -> None:
    subjects = load_subjects(options.subjects)
    subjects.pop(options.without, None)
    records, refused = store.collect(options.results, subjects, options.steps)
    if not records:
        raise LoRA2Error(f"there are no results of these weights in {options.results}; run first")
    text = table.markdown(records, subjects, refused)
    (options.results / "table.md").write_text(text)
    print(text)
    pareto.draw(records, options.results / "pareto.png")


if __name__ == "__main__":
    main()
