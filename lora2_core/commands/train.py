"""Trains an adapter on a folder of pictures."""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ..config import TrainConfig
from ..errors import LoRA2Error
from ..files import writing
from ..files.folders import make_folder
from ..ranks import rank_map
from ..room.advice import explained
from ..room.disk import check_disk
from ..room.offload import spread, visiting
from ..room.plan import room_for
from ..runs.packing import pack_result
from ..runs.run_folder import RunFolder, run_kept
from ..training.doubts import doubts
from ..training.gradients import NoGradient
from ..training.loop import Training
from ..training.plan import starting_ranks
from ..training.result import TrainingDiverged, TrainResult
from . import samples, train_arguments
from .lesson import Lesson, lesson
from .progress import Progress
from .rank_options import check_out
from .ranks import read_report
from .streams import warn

add_arguments = train_arguments.add_arguments


def run(options: argparse.Namespace) -> None:
    """Checks everything that can be checked first, then loads, encodes, trains and writes."""
    config = train_arguments.config_of(options)
    ranks = None if options.ranks is None else rank_map.of_report(read_report(options.ranks))
    check_out(options.out)
    make_folder(options.out.parent)
    if (options.prior_images is None) != (options.prior_prompt is None):
        raise LoRA2Error("prior-images and prior-prompt go together; give both or neither")
    learned = lesson(options, config)
    for text in doubts(config, learned.device, learned.own, learned.prior):
        warn(text)
    waiting = _room(learned, config, ranks, options.estimate)
    if options.estimate:
        return
    starts = starting_ranks(learned.denoiser, config, ranks)
    if tight := check_disk(options.out.parent, learned.denoiser, config, starts):
        warn(tight)
    spread(learned.denoiser.network, waiting, learned.device)
    training = Training(
        learned.denoiser, learned.order(config, options.prior_weight), config, ranks
    )
    folder = RunFolder(_run_path(options), **learned.facts)
    _begin(training, folder, options)
    previews = None
    if learned.paint is not None:
        previews = samples.previews(training, folder, learned.paint, options, warn)
    with (
        visiting(waiting, learned.device),
        _kept(training, learned, folder),
        Progress() as progress,
    ):
        result = run_kept(
            training, folder, options.save_every, progress, warn, previews, progress.looking
        )
    _write(result, learned.facts, options)


def _room(
    learned: Lesson, config: TrainConfig, ranks: Mapping[str, int] | None, asked: bool
) -> list[nn.Module]:
    """Says what the run needs, on a GPU or if that is asked for; returns what is to wait in main
    memory.
    """
    if not (asked or config.offload == "all" or learned.device.type == "cuda"):
        return []
    starts = starting_ranks(learned.denoiser, config, ranks)
    room = room_for(learned.denoiser, config, learned.examples, starts, _free(learned.device))
    short = "; this may run out of memory" if room.short else ""
    print(f"{room.words}{short}", flush=True)
    return room.waiting


@contextmanager
def _kept(training: Training, learned: Lesson, folder: RunFolder) -> Iterator[None]:
    """Errors of the run, and Ctrl-C, say where it is kept."""

    def where() -> str:
        if training.done == 0:
            return "Nothing was trained before that"
        return (
            f"The run is kept in {folder.path}, up to step {training.done}; --resume goes on "
            "with it"
        )

    free = torch.cuda.empty_cache
    try:
        with explained(training, learned.denoiser, learned.examples, where, free):
            yield
    except (TrainingDiverged, NoGradient) as error:
        raise LoRA2Error(f"{error}. {where()}") from error
    except KeyboardInterrupt:
        raise LoRA2Error(f"stopped. {where()}") from None


def _write(result: TrainResult, facts: Mapping, options: argparse.Namespace) -> None:
    state = pack_result(result, **facts)
    path = writing.write(state, options.out, precision=options.precision)
    ranks = sorted(rank for _, rank in result.ranks.values() if rank)
    gone = len(result.ranks) - len(ranks)
    print(
        f"saved {path} ({path.stat().st_size / 1e6:.2f} MB, {len(ranks)} components of rank "
        f"{ranks[0]} to {ranks[-1]}, mean {sum(ranks) / len(ranks):.1f}"
        f"{f'; {gone} layers are left out' if gone else ''})"
    )


def _run_path(options: argparse.Namespace) -> Path:
    if options.resume is not None and options.resume != Path():
        return options.resume
    return options.out.with_name(f"{options.out.stem}_run")


def _begin(training: Training, folder: RunFolder, options: argparse.Namespace) -> None:
    state = folder.newest()
    if options.resume is not None:
        if state is None:
            raise LoRA2Error(f"there is no run in {folder.path}; leave --resume out to begin one")
        training.restore(state)
        print(f"goes on after step {training.done}", flush=True)
    elif state is not None:
        raise LoRA2Error(
            f"{folder.path} holds a run of {state.step} steps; add --resume to go on with it, or "
            "choose another --out"
        )


def _free(device: torch.device) -> int | None:
    """Bytes of a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # of encoders that are gone
    return torch.cuda.mem_get_info(device)[0]
