"""Merge adapters of any ranks into one."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import LoRA2Error
from ..files import writing
from ..files.module_names import base_name
from ..rank_tools import Cut, Ingredient, cut_merged, merge, open_adapter
from ..rank_tools.adapters import assumptions, counted_as, together, unmeasured
from ..rank_tools.blocks import BlockStrengths, parse_blocks
from . import gauge
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
    parser.add_argument(
        "--blocks",
        action="append",
        default=[],
        metavar="FILE:BLOCKS",
        help="further factors for the blocks of one of the files, such as "
        "dog.safetensors:down=0.5,middle=1,up4=0; once for each file",
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="keep only what all of them change, in the same shape (different base models)",
    )
    add_cut(parser)
    add_precision(parser)
    add_base(parser)
    gauge.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    cut = cut_of(options)
    measures = gauge.asks_model(options, cut)
    check_out(options.out)
    ingredients = ingredients_of(options.files, options.blocks, options.base)
    precision = precision_of(options, [one.adapter for one in ingredients])
    on = gauge.gauge(options) if measures else None
    if on is not None:
        ingredients = [
            replace(one, adapter=counted_as(one.adapter, on.base)) for one in ingredients
        ]
    notes = assumptions(together([one.adapter for one in ingredients]))
    with Counter("merging") as counter:
        outcome = merge(
            ingredients,
            Cut() if on else cut,
            overlap=options.overlap,
            dtype=torch.float32 if on else dtype_of(precision),
            on_component=counter,
        )
    if on is not None:
        whole = on.measured(open_adapter(outcome.state, "the merge"))
        notes += unmeasured(whole)
        with Counter("compressing") as counter:
            outcome = cut_merged(
                outcome, whole, cut, dtype=dtype_of(precision), on_component=counter
            )
    path = writing.write(outcome.state, options.out, precision=precision)
    print(f"{notes}{outcome}\n{said(path)}")


def ingredients_of(
    texts: Sequence[str], blocks: Sequence[str] = (), base: str | None = None
) -> list[Ingredient]:
    """FILE[=WEIGHT[:SELF:CROSS]] and FILE:BLOCKS; raises LoRA2Error, naming what is wrong."""
    given = [_file_and_weights(text) for text in texts]
    strengths: dict[Path, list[str]] = {}
    for text in blocks:
        name, _, entries = text.rpartition(":")
        if Path(name) not in (Path(file) for file, _ in given):
            raise LoRA2Error(
                f"blocks has {text!r}; give FILE:BLOCKS, such as {given[0][0]}:down=0.5,up4=0, "
                "with one of the files that are merged"
            )
        strengths.setdefault(Path(name), []).append(entries)
    parsed = {file: parse_blocks(",".join(entries)) for file, entries in strengths.items()}
    return [
        Ingredient(
            open_adapter(file, base=base_name(base)),
            *weights,
            blocks=parsed.get(Path(file), BlockStrengths()),
        )
        for file, weights in given
    ]


def _file_and_weights(text: str) -> tuple[str, list[float]]:
    name, equals, weights = text.rpartition("=")
    if not equals or os.path.exists(text):  # a name may hold =
        return text, []
    try:
        numbers = [float(part) for part in weights.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise LoRA2Error(
            f"{text!r} cannot be read; give FILE, FILE=WEIGHT or FILE=WEIGHT:SELF:CROSS"
        )
    return name, numbers
