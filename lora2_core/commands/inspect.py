"""Show the ranks of an adapter."""

import argparse
import json
from pathlib import Path

from ..files.header import read_header, shown
from ..files.module_names import base_name
from ..ranks.rank_report import report_from_header
from .rank_options import add_base


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a LoRA (.safetensors) of any origin")
    parser.add_argument("--json", action="store_true", help="all of it, for other programs")
    add_base(parser)


def run(options: argparse.Namespace) -> None:
    """Reads the header alone, so that a file of gigabytes takes no longer."""
    report = report_from_header(read_header(options.file), base_name(options.base))
    if options.json:
        print(json.dumps(report, indent=1))
        return
    totals = report["totals"]
    print(
        f"{options.file.name}: {totals['components']} components, {totals['bytes'] / 1e6:.2f} MB\n"
        f"rank {totals['min_rank']} to {totals['max_rank']}, mean {totals['mean_rank']:.2f}, "
        f"{totals['rank_one']} of rank 1"
        + (f", {totals['rank_zero']} of rank 0" if totals["rank_zero"] else "")
    )
    if report.get("beside"):
        print("beside: " + ", ".join(f"{n} {what}" for what, n in report["beside"].items()))
    for row in report["components"]:
        size = "×".join(map(str, row["shape"]))
        kind = f" ({row['kind']})" if "kind" in row else ""
        print(f"{row['rank']:5d}  {size:<16} {shown(row['name'])}{kind}")
