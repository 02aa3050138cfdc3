"""Merge adapters of any ranks into one."""

import argparse
from pathlib import Path

from ..errors import LoRA2Error
from ..files import writing
from ..files.module_names import base_name
from ..rank_tools import Ingredient, merge, open_adapter
from ..rank_tools.adapters import assumptions, together
from .progress import Counter
from .rank_options import (
    add_base,
    add_cut,
    add_precision,
    check_out,
    cut_of,
    dtype_of,
    precision_of,
    said,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE[=WEIGHT[:SELF:CROSS]]",
        help="a LoRA and how much of it, such as dog.safetensors=0.8; SELF and CROSS are further "
        "factors of its self- and cross-attention",
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="keep only what all of them change, in the same shape (different base models)",
    )
    add_cut(parser, required=False)
    add_precision(parser)
    add_base(parser)


def run(options: argparse.Namespace) -> None:
    cut = cut_of(options)
    check_out(options.out)
    ingredients = [parse(text, options.base) for text in options.files]
    precision = precision_of(options, [one.adapter for one in ingredients])
    with Counter("merging") as counter:
        outcome = merge(
            ingredients,
            cut,
            overlap=options.overlap,
            dtype=dtype_of(precision),
            on_component=counter,
        )
    path = writing.write(outcome.state, options.out, precision=precision)
    notes = assumptions(together([one.adapter for one in ingredients]))
    print(f"{notes}{outcome}\n{said(path)}")


def parse(text: str, base: str | None = None) -> Ingredient:
    """FILE[=WEIGHT[:SELF:CROSS]]; raises LoRA2Error, naming what is wrong."""
    name, equals, weights = text.rpartition("=")
    if not equals or Path(text).exists():  # a name may hold =
        return Ingredient(open_adapter(text, base=base_name(base)))
    try:
        numbers = [float(part) for part in weights.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise LoRA2Error(
            f"{text!r} cannot be read; give FILE, FILE=WEIGHT or FILE=WEIGHT:SELF:CROSS"
        )
    return Ingredient(open_adapter(name, base=base_name(base)), *numbers)
