"""Sample pictures while a command trains."""

import argparse
from collections.abc import Callable

from PIL import Image

from ..backbones.drawing import Drawing
from ..errors import LoRA2Error
from ..runs.preview_folder import PreviewFolder
from ..runs.previews import Previews
from ..runs.run_folder import RunFolder
from ..training.loop import Training
from .words import words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to draw meanwhile")
    group.add_argument(
        "--sample-prompt",
        type=words,
        action="append",
        default=[],
        metavar="PROMPT",
        help="draw this with the adapter as it learns, into OUT_run/previews; give it again for "
        "another picture. The adapter is the same with and without",
    )
    group.add_argument("--sample-negative", type=words, metavar="PROMPT", help="what not to draw")
    group.add_argument(
        "--sample-every",
        type=int,
        default=100,
        metavar="STEPS",
        help="how often; the last step is always drawn",
    )
    group.add_argument(
        "--sample-seed", type=int, default=0, help="of the noise, the same every time"
    )
    group.add_argument("--sample-steps", type=int, default=25, help="of the sampler")
    group.add_argument("--sample-guidance", type=float, default=5.0, help="1: no guidance")


def drawing(options: argparse.Namespace, side: int) -> Drawing | None:
    """What the options ask for, or None; raises LoRA2Error for what cannot be."""
    if not options.sample_prompt:
        if options.sample_negative is not None:
            raise LoRA2Error("sample-negative goes with sample-prompt; give both or neither")
        return None
    for name in ("sample_every", "sample_steps"):
        if getattr(options, name) < 1:
            raise LoRA2Error(
                f"{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1"
            )
    return Drawing(
        tuple(options.sample_prompt),
        options.sample_negative,
        options.sample_seed,
        options.sample_steps,
        options.sample_guidance,
        side,
    )


def previews(
    training: Training,
    folder: RunFolder,
    paint: Callable[[], list[Image.Image]],
    options: argparse.Namespace,
    on_trouble: Callable[[str], None],
) -> Previews:
    """Raises LoRA2Error for a run that begins where pictures of another one are."""
    found = PreviewFolder(folder.path / "previews")
    if training.done == 0 and found.steps():
        raise LoRA2Error(
            f"{found.path} holds pictures of a run that left no state; move them away, or choose "
            "another --out"
        )
    return Previews(found, options.sample_every, paint, len(options.sample_prompt), on_trouble)
