"""One training run in the host: from what LoRA² Train was given to an adapter."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from ..lora2_core.config import TrainConfig
from ..lora2_core.diffusion.data import Batch, Example, batches, check_examples
from ..lora2_core.errors import LoRA2Error
from ..lora2_core.files.free_name import free_name
from ..lora2_core.ranks import rank_map
from ..lora2_core.room.advice import explained
from ..lora2_core.runs.run_folder import RunFolder, run_kept
from ..lora2_core.training.doubts import doubts
from ..lora2_core.training.gradients import NoGradient
from ..lora2_core.training.loop import Training
from ..lora2_core.training.result import TrainingDiverged, TrainResult
from ..lora2_core.training.run_state import RunState
from .host import folders, memory
from .host.given import left_out
from .host.model import HostDenoiser, check_trainable, examples, latent_channels, trainable
from .host.patches import unseen
from .host.progress import Progress
from .host.text import HostWithText, text_trainable, with_captions
from .preview import Plan
from .train_room import make_room

NEW_RUN = "(new run)"


def known_run(name: str) -> bool | str:
    """For the node's validation: True, or why that run cannot be gone on with."""
    names = folders.run_names()
    if name == NEW_RUN or name in names:
        return True
    there = f"there are {', '.join(names[:5])}" if names else "there is none yet"
    return (
        f"no run {name!r} is kept in {folders.runs_folder()} ({there}); choose one of these, or "
        f"{NEW_RUN!r}"
    )


@dataclass(frozen=True)
class Settings:
    """What the widgets of LoRA² Train and of LoRA² Options say.

    empty: CONDITIONING of an empty prompt. run: name of a new run's folder. resume: that of an old
    one, or NEW_RUN. ranks: component → the rank that it starts from.
    """

    config: TrainConfig
    empty: Sequence | None
    prior_weight: float
    run: str
    resume: str
    save_every: int
    ranks: Mapping[str, int] | None

    @classmethod
    def of(cls, widgets: dict, text_encoders: bool) -> "Settings":
        """From the values by their inputs' names; raises LoRA2Error for one that does not fit."""
        widgets = widgets | {"text_encoders": text_encoders}
        report = widgets.pop("ranks", None)
        options = dict(widgets.pop("options", None) or {})
        own = {
            "empty": options.pop("empty", None),
            "prior_weight": widgets.pop("prior_weight", 1.0),
            "run": widgets.pop("run", "lora2"),
            "resume": widgets.pop("resume", NEW_RUN),
            "save_every": widgets.pop("save_every", 100),
            "ranks": report and rank_map.of_report(report),
        }
        if widgets.pop("fix_ranks", False):
            widgets["rank_freeze"] = 1.0
        return cls(_config(widgets | options), **own)


@dataclass(frozen=True)
class Material:
    """Images to learn from, or of the class in general, as the host's lists; None: not connected.

    what, texts: names of the inputs that latents and captions came by.
    """

    what: str
    latents: Sequence[dict] | None
    conditioning: Sequence | None
    texts: str
    captions: Sequence[str] | None


@dataclass(frozen=True)
class Job:
    """clip: text encoders to train, too. plan: pictures to draw on the way."""

    model: object
    clip: object | None
    own: Material
    prior: Material
    plan: Plan | None
    settings: Settings

    def run(
        self, node_id: str | None, workflow: Mapping | None
    ) -> tuple[TrainResult, Image.Image | None]:
        """The adapter, and its previews on one sheet.

        workflow: the host's EXTRA_PNGINFO. Raises LoRA2Error, naming the input, for what cannot be
        trained; a run that breaks off is kept, and the error says where.
        """
        config = self.settings.config
        self._check()
        own, prior = self._examples(self.own), self._examples(self.prior)
        order = self._order(own, prior)
        folder, state = self._folder()
        previews = None
        with (
            self._lent() as denoiser,
            Progress(config.steps, node_id, workflow) as progress,
        ):
            everything = [*own, *prior]
            for text in [*doubts(config, denoiser.device, own, prior), *self._left_out()]:
                progress.trouble(text)
            make_room(denoiser, config, everything, self.settings.ranks, folder.path, progress)
            training = Training(denoiser, order, config, self.settings.ranks)
            if state is not None:
                training.restore(state)
            if self.plan is not None:
                previews = self.plan.previews(folder, denoiser, progress)
            with _kept(training, denoiser, everything, folder):
                result = run_kept(
                    training, folder, self.settings.save_every, progress, progress.trouble,
                    previews, progress.looking,
                )  # fmt: skip
            progress.finished(result)
        return result, None if previews is None else previews.sheet

    def _check(self) -> None:
        check_trainable(self.model)
        if (self.prior.latents is None) != (self.prior.conditioning is None):
            raise LoRA2Error("reg_latents and reg_positive go together; connect both or neither")
        if self.clip is not None and self.plan is not None and not self.plan.readable:
            raise LoRA2Error(
                "text encoders are trained, and LoRA² Preview has no texts for them to read; "
                "connect those of its positive to texts, and those of its negative to "
                "negative_texts"
            )

    def _examples(self, material: Material) -> list[Example]:
        if material.latents is None:
            return []
        empty = self.settings.empty
        found = examples(self.model, material.latents, material.conditioning, material.what, empty)
        check_examples(found, latent_channels(self.model), material.what)
        if self.clip is None:
            return found
        if not material.captions:
            raise LoRA2Error(
                f"clip is connected, so that text encoders are trained, but {material.texts} is "
                "not; connect the texts of the images"
            )
        return with_captions(found, self.clip, material.captions, "images")

    def _left_out(self) -> list[str]:
        """What was connected and takes no part, in a sentence each."""
        told = [
            text
            for material in (self.own, self.prior)
            if material.latents is not None
            for text in left_out(material.latents, material.conditioning, material.what)
        ]
        if patches := unseen(self.model):
            told.append(
                f"the model comes with {', '.join(patches)}: that acts when the host draws, and "
                "training does not see it"
            )
        return told

    def _order(self, own: list[Example], prior: list[Example]) -> Iterator[list[Batch]]:
        config = self.settings.config
        return batches(
            own,
            batch_size=config.batch_size,
            accumulation=config.gradient_accumulation,
            seed=config.seed,
            prior=prior,
            prior_weight=self.settings.prior_weight,
            repeats=config.repeats,
            caption_dropout=config.caption_dropout,
        )

    def _folder(self) -> tuple[RunFolder, RunState | None]:
        """Of a new run, or of an old one with its last state."""
        root, resume = folders.runs_folder(), self.settings.resume
        if resume == NEW_RUN:
            return RunFolder(free_name(root, self.settings.run, "")), None
        folder = RunFolder(root / resume)
        state = folder.newest()
        if state is None:
            raise LoRA2Error(
                f"the run {resume!r} has no state that is whole; choose another, or {NEW_RUN!r}"
            )
        return folder, state

    @contextmanager
    def _lent(self) -> Iterator[HostDenoiser | HostWithText]:
        """The model, and the text encoders if they are trained, on loan from the host."""
        with trainable(self.model, self.settings.config.dtype) as unet:
            if self.clip is None:
                yield unet
                return
            with text_trainable(unet, self.clip) as both:
                yield both


@contextmanager
def _kept(
    training: Training, denoiser: HostDenoiser | HostWithText, examples: list, folder: RunFolder
) -> Iterator[None]:
    """Errors of the run say where it is kept."""

    def where() -> str:
        if training.done == 0:
            return "Nothing was trained before that"
        return f"The run is kept as {folder.path.name}, up to step {training.done}"

    try:
        with explained(training, denoiser, examples, where, memory.free_memory):
            yield
    except (TrainingDiverged, NoGradient) as error:
        raise LoRA2Error(f"{error}. {where()}") from error


def _config(settings: dict) -> TrainConfig:
    preset = settings.pop("preset")
    settings["dtype"] = settings.pop("training_dtype", TrainConfig.dtype)
    if preset == "custom":
        return TrainConfig(**settings)
    settings.pop("r_init", None)
    settings.pop("r_max", None)
    return TrainConfig.chosen(preset, **settings)
