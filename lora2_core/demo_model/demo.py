"""One subject of the drawn world, learned by the bundled model and drawn in places it never was."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..backbones.diffusers_unet import DiffusersUNet
from ..config import TrainConfig
from ..diffusion.data import batches
from ..drawn_world import photograph
from ..drawn_world.backgrounds import BACKGROUNDS
from ..drawn_world.subjects import Subject
from ..layers.applied import applied
from ..runs.previews import Previews
from ..training.loop import Training
from ..training.result import StepInfo, TrainResult
from . import bundled, checkpoint, studio

PICTURES = 5
_GAP, _LEFT, _LINE = 6, 92, 22  # of the contact sheet, px
_INK, _PAPER = (34, 34, 40), (252, 252, 250)


@dataclass(frozen=True)
class DemoRun:
    """pictures: what was learned from, with captions. prompts: of both rows of drawings."""

    pictures: list[tuple[np.ndarray, str]]
    prompts: list[str]
    before: list[Image.Image]
    after: list[Image.Image]
    result: TrainResult


def run(
    subject: Subject,
    config: TrainConfig,
    on_step: Callable[[StepInfo], None],
    previews: Callable[[Callable[[], list[Image.Image]], int], Previews] | None = None,
) -> DemoRun:
    """Trains on PICTURES pictures of the subject; draws it from equal noise before and after, and
    with `previews` meanwhile too, which is given what draws, and how many pictures that are.

    Raises LoRA2Error if the bundled weights are missing or damaged.
    """
    model = checkpoint.load(bundled.weights())
    denoiser = DiffusersUNet(model.unet)
    pictures = photograph(subject, PICTURES, config.seed)
    seen = " ".join(caption for _, caption in pictures)
    unseen = [place for place in BACKGROUNDS if place not in seen]
    prompts = [f"a sks {subject.kind} {place}" for place in unseen[:PICTURES]]
    before = studio.draw(model, prompts, config.seed)
    order = batches(
        studio.examples(model, pictures),
        batch_size=config.batch_size,
        accumulation=config.gradient_accumulation,
        seed=config.seed,
    )
    training = Training(denoiser, order, config)
    if previews is None:
        result = training.run(on_step)
    else:
        meanwhile = previews(lambda: studio.draw(model, prompts, config.seed), len(prompts))

        def note(info: StepInfo) -> None:
            on_step(info)
            meanwhile.draw(training)

        result = training.run(note)
        meanwhile.finish()
    with applied(denoiser, result.factors):
        after = studio.draw(model, prompts, config.seed)
    return DemoRun(pictures, prompts, before, after, result)


def contact_sheet(run: DemoRun) -> Image.Image:
    """Three rows: the pictures learned from, and the drawings before and after."""
    given = [Image.fromarray(picture) for picture, _ in run.pictures]
    rows = (("learned from", given), ("before", run.before), ("after", run.after))
    side = given[0].width
    step = side + _GAP
    size = _LEFT + len(given) * step, len(rows) * step + 2 * _LINE + _GAP
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(13), ImageFont.load_default(9)
    for row, (name, images) in enumerate(rows):
        y = _GAP + row * step + (_LINE if row else 0)
        pen.text((_LEFT - 8, y + side / 2), name, _INK, font, anchor="rm")
        captions = run.prompts if row else [caption for _, caption in run.pictures]
        for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
            x = _LEFT + column * step
            sheet.paste(image, (x, y))
            if row != 1:
                where = caption.partition("sks ")[2]
                pen.text((x + side / 2, y + side + 9), where, _INK, small, anchor="mm")
    return sheet
