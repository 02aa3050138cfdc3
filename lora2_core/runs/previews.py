"""Sample pictures of the adapter in training, every so many steps."""

from collections.abc import Callable, Sequence

from PIL import Image

from ..errors import LoRA2Error
from ..training.loop import Training
from .contact_sheet import contact_sheet
from .preview_folder import PreviewFolder


def _nobody(step: int, count: int) -> None:
    """Nobody wants to know."""


class Previews:
    """Draws every `every` steps and at the end; a picture that is in the folder is not drawn again.

    paint: draws `count` RGB pictures with the denoiser as it is, the same way every time. What it
    raises goes to on_trouble as one sentence, and the training goes on; not so what is no Exception
    or is one of `stops`. on_drawn gets step and count. sheet: all pictures, once the run is over,
    or None if there are none. Raises LoRA2Error if every is below 1.
    """

    def __init__(
        self,
        folder: PreviewFolder,
        every: int,
        paint: Callable[[], Sequence[Image.Image]],
        count: int,
        on_trouble: Callable[[str], None],
        on_drawn: Callable[[int, int], None] = _nobody,
        stops: tuple[type[BaseException], ...] = (),
    ):
        if every < 1:
            raise LoRA2Error(f"previews are asked for every {every} steps; ask for 1 or more")
        self.folder = folder
        self.sheet: Image.Image | None = None
        self._every = every
        self._paint = paint
        self._count = count
        self._on_trouble = on_trouble
        self._on_drawn = on_drawn
        self._stops = stops

    def draw(self, training: Training) -> None:
        """Draws the step that training has done, if it is due; training.run must be under way."""
        step = training.done
        due = step > 0 and (step % self._every == 0 or step == training.config.steps)
        if not due or self.folder.has(step, self._count):
            return
        try:
            with training.sampled():
                pictures = self._paint()
            self.folder.write(step, pictures)
        except self._stops:
            raise
        # whatever a sampler or a decoder may raise, it is not worth a training run
        except Exception as error:
            reason = str(error) or type(error).__name__
            self._on_trouble(f"the preview of step {step} could not be drawn: {reason}")
        else:
            self._on_drawn(step, len(pictures))

    def finish(self) -> None:
        """Puts all steps of the folder on the sheet, and that beside them."""
        try:
            if steps := self.folder.steps():
                self.sheet = contact_sheet(steps)
                self.folder.write_sheet(self.sheet)
        except OSError as error:
            self._on_trouble(f"the sheet of previews could not be made: {error}")
