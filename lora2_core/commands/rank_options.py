"""Arguments that expand, merge and compress share."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from ..errors import LoRA2Error
from ..files.families import BASES
from ..files.free_name import SUFFIX
from ..files.layout import PRECISIONS
from ..rank_tools import Adapter, Cut
from ..rank_tools.cut import HOW

_KEEP = "keep"


def add_cut(parser: argparse.ArgumentParser) -> None:
    """--rank, --energy, --budget-mb, --effect and --how."""
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--rank", type=int, help="no component above this rank")
    cut.add_argument(
        "--energy", type=float, help="share of each component's Σσ² to keep, such as 0.95"
    )
    cut.add_argument(
        "--budget-mb", type=float, help="size of the file at most, in megabytes of 10⁶ bytes"
    )
    cut.add_argument(
        "--effect",
        type=float,
        metavar="SHARE",
        help="share to keep of what all of it does to the loss, such as 0.99; of a file that notes "
        "that, or with --model and --images",
    )
    parser.add_argument(
        "--how",
        choices=HOW,
        help="what is kept: the best directions, the first rows (LoRA²'s own truncation), or what "
        "does the most to the loss (default: svd, with --model effect)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=[_KEEP, *PRECISIONS],
        default=_KEEP,
        help="of the stored factors (default: as in the input)",
    )


def add_base(parser: argparse.ArgumentParser) -> None:
    """--base; module_names.base_name reads it."""
    parser.add_argument(
        "--base",
        choices=[*BASES],
        help="the base model, for files of a few layers in diffusers' names, from which it cannot "
        "be told (default: what the layers tell, else sdxl)",
    )


def cut_of(options: argparse.Namespace) -> Cut:
    """By effect where a model is given and nothing else is asked for."""
    how = options.how or ("svd" if options.model is None else "effect")
    return Cut(options.rank, options.energy, options.budget_mb, how, options.effect)


def precision_of(options: argparse.Namespace, adapters: Iterable[Adapter]) -> str:
    """The one asked for, or the widest of the inputs."""
    if options.precision != _KEEP:
        return options.precision
    names = {"F16": "fp16", "BF16": "bf16"}
    found = set()
    for adapter in adapters:
        tensors = adapter.state.header.tensors
        for stored in adapter.components.values():
            found |= {names.get(tensors[key].dtype, "fp32") for key in stored.factor_keys}
    return found.pop() if len(found) == 1 else "fp32"


def dtype_of(precision: str) -> torch.dtype:
    return PRECISIONS[precision]


def check_out(out: Path) -> None:
    """Before the work, not after. Raises LoRA2Error for a name that cannot be written."""
    if out.suffix.lower() != SUFFIX:
        raise LoRA2Error(f"out is {out}; choose a name ending in {SUFFIX}")
    if os.path.lexists(out):
        raise LoRA2Error(f"{out} exists already and was not touched; choose another name")


def said(path: Path) -> str:
    return f"saved {path} ({path.stat().st_size / 1e6:.2f} MB)"
