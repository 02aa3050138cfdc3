"""The whole thing in two minutes."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ..config import METHODS, TrainConfig
from ..demo_model import demo
from ..drawn_world import load_subjects
from ..drawn_world.subjects import BUNDLED
from ..errors import LoRA2Error
from ..files import writing
from ..files.folders import make_folder
from ..files.free_name import free_name
from ..ranks import rank_picture
from ..ranks.rank_report import report
from ..runs.packing import pack_result
from ..runs.preview_folder import PreviewFolder
from ..runs.previews import Previews
from .progress import Progress
from .streams import warn

NAME = "lora2_demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for adapter, pictures and report"
    )
    parser.add_argument(
        "--subject", default="tiger clock", help="what to learn: a name in the subjects' file"
    )
    parser.add_argument(
        "--subjects", type=Path, default=BUNDLED, metavar="FILE", help="subjects of your own (JSON)"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--method", choices=METHODS, default="lora2")
    parser.add_argument("--seed", type=int, default=0, help="of places, noise and training")
    parser.add_argument(
        "--preview-every",
        type=int,
        metavar="STEPS",
        help="draw the subject while it is learned, too, every so many steps",
    )


def run(options: argparse.Namespace) -> None:
    config = TrainConfig.preset(
        "small",
        method=options.method,
        steps=options.steps,
        seed=options.seed,
        learning_rate=7e-4,  # for a network this small
        dtype="fp32",
        gradient_checkpointing=False,
    )
    subjects = load_subjects(options.subjects)
    if options.subject not in subjects:
        raise LoRA2Error(
            f"subject is {options.subject!r}; choose one of {', '.join(subjects)}, or give a file "
            "with --subjects"
        )
    make_folder(options.out)
    print(f"learns the {options.subject} from {demo.PICTURES} drawn pictures", flush=True)
    with Progress() as progress:
        found = demo.run(subjects[options.subject], config, progress, _previews(options))
    _print_ranks(found.result.ranks)
    state = pack_result(found.result, trigger_words="sks", train_images=demo.PICTURES)
    adapter = writing.write_new(state, options.out, NAME, precision="fp16")
    ranks = report(state)
    pictures = {
        adapter.with_name(f"{adapter.stem}_pictures.png"): demo.contact_sheet(found),
        adapter.with_name(f"{adapter.stem}_ranks.png"): rank_picture.draw(ranks),
    }
    for path, picture in pictures.items():
        picture.save(path)
    told = adapter.with_suffix(".json")
    losses = found.result.losses
    told.write_text(json.dumps({"prompts": found.prompts, "losses": losses, "ranks": ranks}))
    print(f"saved {adapter} ({adapter.stat().st_size / 1e6:.2f} MB)")
    for path in (*pictures, told):
        print(f"      {path}")


def _previews(options: argparse.Namespace) -> Callable | None:
    """What demo.run takes: from what draws, and how many pictures, to Previews."""
    if options.preview_every is None:
        return None
    folder = PreviewFolder(free_name(options.out, f"{NAME}_previews", ""))

    def made(paint: Callable[[], list[Image.Image]], count: int) -> Previews:
        return Previews(folder, options.preview_every, paint, count, warn)

    print(f"draws into {folder.path}", flush=True)
    return made


def _print_ranks(ranks: dict[str, tuple[float | None, int]]) -> None:
    blocks: dict[str, list[int]] = {}
    for name, (_, rank) in ranks.items():
        blocks.setdefault(".".join(name.split(".")[:2]), []).append(rank)
    print(f"{'block':<18}{'layers':>7}{'mean rank':>11}{'lowest':>8}{'highest':>9}")
    for block, found in blocks.items():
        mean = sum(found) / len(found)
        print(f"{block:<18}{len(found):>7}{mean:>11.2f}{min(found):>8}{max(found):>9}")
