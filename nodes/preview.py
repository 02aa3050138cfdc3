"""LoRA² Preview."""

from typing import NamedTuple

from comfy_api.latest import io

from ..lora2_core.errors import LoRA2Error
from ..lora2_core.runs.preview_folder import PreviewFolder
from ..lora2_core.runs.previews import Previews
from ..lora2_core.runs.run_folder import RunFolder
from .host.loan import ModelLost
from .host.model import HostDenoiser
from .host.progress import Interrupt, Progress
from .host.sampling import SAMPLERS, SCHEDULERS, Sampling, painter, zeroed
from .host.text import HostWithText
from .sockets import CATEGORY, Preview, seed_input


class Plan(NamedTuple):
    """What LoRA² Train is to draw, and how often.

    readable: whether the texts of all its conditioning are known.
    """

    every: int
    sampling: Sampling
    readable: bool

    def previews(
        self,
        run: RunFolder,
        denoiser: HostDenoiser | HostWithText,
        progress: Progress,
    ) -> Previews:
        """Drawn into the run's folder, and shown on the page."""
        folder = PreviewFolder(run.path / "previews")
        progress.show(folder)
        return Previews(
            folder,
            self.every,
            painter(denoiser, self.sampling),
            len(self.sampling.pairs),
            progress.trouble,
            progress.drawn,
            stops=(Interrupt, ModelLost),
        )


class LoRA2Preview(io.ComfyNode):
    """Pictures that LoRA² Train draws while it trains."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Preview",
            display_name="LoRA² Preview",
            category=CATEGORY,
            description="Has LoRA² Train draw pictures with the adapter as it learns.",
            is_input_list=True,  # a list of prompts is one picture each
            inputs=[
                io.Vae.Input("vae", tooltip="The model's own VAE."),
                io.Conditioning.Input(
                    "positive", tooltip="What to draw: the subject somewhere it was not seen."
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What not to draw. Not connected: zeros, as SDXL was trained with.",
                ),
                io.Int.Input(
                    "every",
                    default=100,
                    min=1,
                    max=100_000,
                    tooltip="Steps between two previews; the last step always has one.",
                ),
                seed_input("Of the noise; the same for every preview."),
                io.Int.Input("steps", default=20, min=1, max=10_000, tooltip="Of the sampler."),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance. 1 leaves the negative out, and is twice as fast.",
                ),
                io.Combo.Input(
                    "sampler_name", options=SAMPLERS, default="euler", tooltip="As KSampler's."
                ),
                io.Combo.Input(
                    "scheduler", options=SCHEDULERS, default="normal", tooltip="As KSampler's."
                ),
                io.Int.Input(
                    "width", default=1024, min=64, max=16384, step=8, tooltip="Of a picture, in px."
                ),
                io.Int.Input(
                    "height", default=1024, min=64, max=16384, step=8, tooltip="Of a picture."
                ),
                io.String.Input(
                    "texts",
                    optional=True,
                    force_input=True,
                    tooltip="The texts of positive. Needed where text encoders are trained: they "
                    "read them anew for each preview.",
                ),
                io.String.Input(
                    "negative_texts",
                    optional=True,
                    force_input=True,
                    tooltip="The texts of negative, likewise.",
                ),
            ],
            outputs=[Preview.Output(display_name="preview", tooltip="For LoRA² Train.")],
        )

    @classmethod
    def execute(
        cls, vae, positive, every, negative=None, texts=None, negative_texts=None, **settings
    ) -> io.NodeOutput:
        settings = {name: values[0] for name, values in settings.items()}
        pairs = _pairs(positive, negative)
        words = _words(positive, texts, "texts")
        if negative is None:
            unwanted, readable = [None], texts is not None
        else:
            unwanted = _words(negative, negative_texts, "negative_texts")
            readable = None not in (texts, negative_texts)
        if len(unwanted) == 1:
            unwanted = unwanted * len(pairs)
        words = list(zip(words, unwanted, strict=True))
        sampling = Sampling(vae[0], pairs, words, **settings)
        return io.NodeOutput(Plan(every[0], sampling, readable))


def _words(conditionings: list, texts: list[str] | None, name: str) -> list[str | None]:
    """The text of each conditioning, or None for all."""
    if texts is None:
        return [None] * len(conditionings)
    if len(texts) != len(conditionings):
        raise LoRA2Error(
            f"{name} holds {len(texts)} texts for {len(conditionings)} conditionings; connect the "
            "texts that these were made of, in their order"
        )
    return texts


def _pairs(positive: list, negative: list | None) -> list[tuple[list, list]]:
    if negative is None:
        negative = [zeroed(conditioning) for conditioning in positive]
    elif len(negative) == 1:
        negative = negative * len(positive)
    if len(negative) != len(positive):
        raise LoRA2Error(
            f"there are {len(positive)} positive and {len(negative)} negative conditionings; give "
            "one negative for all, or one each"
        )
    return list(zip(positive, negative, strict=True))
