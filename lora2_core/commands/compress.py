"""Make an adapter smaller, with the least loss."""

import argparse
from pathlib import Path

from ..errors import LoRA2Error
from ..files import writing
from ..files.module_names import base_name
from ..rank_tools import compress, open_adapter
from ..rank_tools.adapters import assumptions, counted_as, unmeasured
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
    parser.add_argument("file", type=Path, help="a LoRA (.safetensors) of any origin")
    parser.add_argument("out", type=Path, help="the smaller file; an existing one is not replaced")
    add_cut(parser)
    add_precision(parser)
    add_base(parser)
    gauge.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    cut = cut_of(options)
    measures = gauge.asks_model(options, cut)
    if cut.keeps_all and not measures:
        raise LoRA2Error(
            "nothing limits the result; give rank, energy, budget-mb or effect, or model and "
            "images alone, for all of it in the order of its effects"
        )
    check_out(options.out)
    adapter = open_adapter(options.file, base=base_name(options.base))
    precision = precision_of(options, [adapter])
    if measures:
        on = gauge.gauge(options)
        adapter = on.measured(counted_as(adapter, on.base))
    with Counter("compressing") as counter:
        outcome = compress(adapter, cut, dtype=dtype_of(precision), on_component=counter)
    path = writing.write(outcome.state, options.out, precision=precision)
    print(f"{assumptions([adapter])}{unmeasured(adapter)}{outcome}\n{said(path)}")
