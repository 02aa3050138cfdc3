"""Average the ranks of adapters into a map that another training can start from."""

import argparse
import json
from pathlib import Path

from ..errors import LoRA2Error
from ..files.free_name import SUFFIX
from ..files.header import read_header
from ..files.module_names import base_name
from ..rank_tools.adapters import assumed_of
from ..ranks import rank_map
from ..ranks.rank_report import report_from_header
from ..signs import readable
from .rank_options import add_base


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="adapters (.safetensors) of one base model, or JSON of `inspect --json`",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="the map, for `train --ranks` (.json)"
    )
    add_base(parser)


def run(options: argparse.Namespace) -> None:
    """Reads headers alone."""
    reports, base = [read_report(file) for file in options.files], base_name(options.base)
    report = rank_map.averaged(reports, base)
    if options.out.suffix.lower() != ".json":
        raise LoRA2Error(f"out is {options.out}; choose a name ending in .json")
    text = json.dumps(report, indent=1)
    try:
        with options.out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise LoRA2Error(
            f"{options.out} exists already and was not touched; choose another name"
        ) from None
    except OSError as error:
        raise LoRA2Error(f"cannot write {options.out}: {error.strerror}") from None
    totals = report["totals"]
    if rank_map.assumed(reports, base):
        print(assumed_of(", ".join(readable(file.name) for file in options.files)))
    print(
        f"saved {options.out}: {totals['components']} components, rank {totals['min_rank']} to "
        f"{totals['max_rank']}, mean {totals['mean_rank']:.2f}, "
        f"{totals['bytes'] / 1e6:.2f} MB in half precision"
    )
    none = sum(row["rank"] == 0 for one in reports for row in one["components"])
    if none:
        print(f"{none} of rank 0 in the files; the map is a start, and has at least rank 1")


def read_report(path: Path) -> dict:
    """The rank report of an adapter or a JSON file; raises LoRA2Error if it is neither."""
    if path.suffix.lower() == SUFFIX or path.is_dir():
        return report_from_header(read_header(path))
    try:
        return rank_map.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoRA2Error(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, LoRA2Error) as error:
        raise LoRA2Error(f"{path}: {error}") from None
