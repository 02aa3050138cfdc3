"""Bring all components of an adapter to one rank, for tools that demand it."""

import argparse
from pathlib import Path

from ..files import writing
from ..files.module_names import base_name
from ..rank_tools import expand, open_adapter
from ..rank_tools.adapters import assumptions
from ..rank_tools.outcome import noted
from .rank_options import add_base, add_precision, check_out, precision_of, said


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a LoRA (.safetensors) of any origin")
    parser.add_argument("out", type=Path, help="the larger file; an existing one is not replaced")
    parser.add_argument("--rank", type=int, help="default: the largest of the adapter")
    add_precision(parser)
    add_base(parser)


def run(options: argparse.Namespace) -> None:
    check_out(options.out)
    adapter = open_adapter(options.file, base=base_name(options.base))
    expanded = expand(adapter, options.rank)
    precision = precision_of(options, [adapter])
    path = writing.write(expanded, options.out, precision=precision)
    ranks = [row.before for row in expanded.rows]
    print(
        f"{assumptions([adapter])}{len(ranks)} components, rank {min(ranks)} to {max(ranks)} → "
        f"{expanded.rows[0].after}{expanded.beside}{noted(expanded.left_out)}\n"
        f"{said(path)}"
    )
