"""LoRA² Train."""

import logging
from contextlib import nullcontext

from comfy_api.latest import io

from ..lora2_core.config import DTYPES, MAX_RANK, METHODS, PRESETS, TARGETS, TrainConfig
from ..lora2_core.diffusion.data import batches, check_examples
from ..lora2_core.errors import LoRA2Error
from ..lora2_core.files.free_name import free_name
from ..lora2_core.ranks import rank_map, rank_report
from ..lora2_core.room.advice import explained
from ..lora2_core.room.need import amount
from ..lora2_core.room.offload import bytes_on, weights_of
from ..lora2_core.room.plan import room_for
from ..lora2_core.runs.packing import pack_result
from ..lora2_core.runs.run_folder import RunFolder, run_kept
from ..lora2_core.training.loop import Training
from ..lora2_core.training.plan import starting_ranks
from ..lora2_core.training.result import TrainingDiverged
from ..lora2_core.training.run_state import RunState
from . import host
from .host_model import check_trainable, examples, latent_channels, trainable
from .host_text import text_trainable, with_captions
from .live import runs
from .sockets import ADVANCED, CATEGORY, LoraModel, LossMap, Preview, RankReport, TrainOptions

_D = TrainConfig()
NEW_RUN = "(new run)"
host.serve(
    "/lora2/live", lambda asked: runs.states(asked.get("client", ""), asked.get("workflow", ""))
)
host.serve_picture("/lora2/preview", runs.thumbnail)


def _inputs() -> list:
    integer, number, choice, switch = io.Int.Input, io.Float.Input, io.Combo.Input, io.Boolean.Input
    return [
        io.Model.Input("model", tooltip="The SDXL or KOALA model to adapt. It is left as it is."),
        io.Latent.Input("latents", tooltip="Encoded images, from Make Training Dataset."),
        io.Conditioning.Input("positive", tooltip="Their captions: one for all, or one an image."),
        choice(
            "preset",
            options=[*PRESETS, "custom"],
            default="balanced",
            tooltip="Starting and highest rank: balanced 64/128, small 16/32; custom uses r_init "
            "and r_max below. paper: 512/512, and the method as it is printed.",
        ),
        choice(
            "method",
            options=list(METHODS),
            default=_D.method,
            tooltip="lora2 learns the rank of every layer; ac_lora replaces, ten times a "
            "run, the directions that carry little by noise; lora keeps r_init for all.",
        ),
        integer(
            "steps",
            default=_D.steps,
            min=1,
            max=100_000,
            tooltip="Optimiser steps. The paper: 500 for SDXL, 800 for KOALA, 1000 for lora.",
        ),
        number(
            "learning_rate",
            default=_D.learning_rate,
            min=1e-8,
            max=1.0,
            step=1e-6,
            round=1e-8,
            tooltip="Of the two factors A and B; ν has its own. The preset paper goes with 5e-5.",
        ),
        integer(
            "seed",
            default=0,
            min=0,
            max=0xFFFF_FFFF_FFFF_FFFF,
            control_after_generate=False,
            tooltip="The same seed gives the same adapter (bit for bit on a CPU).",
        ),
        integer(
            "batch_size", default=1, min=1, max=64, tooltip="Images of equal size a forward pass."
        ),
        choice(
            "targets",
            options=list(TARGETS),
            default=_D.targets,
            tooltip="Which layers get an adapter. attention is the paper's choice.",
        ),
        io.Latent.Input(
            "reg_latents",
            optional=True,
            tooltip="Images of the class in general, for DreamBooth's prior preservation.",
        ),
        io.Conditioning.Input(
            "reg_positive", optional=True, tooltip="Their captions: one for all, or one an image."
        ),
        number(
            "prior_weight",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.05,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Weight of the loss on the reg images.",
        ),
        integer(
            "r_init",
            default=_D.r_init,
            min=1,
            max=MAX_RANK,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Rank that every layer starts from. Used by the preset custom.",
        ),
        integer(
            "r_max",
            default=_D.r_max,
            min=1,
            max=MAX_RANK,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="No layer grows past it. Used by the preset custom.",
        ),
        number(
            "r_target",
            default=_D.r_target,
            min=0.1,
            max=float(MAX_RANK),
            step=0.5,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Rank towards which every layer is pulled.",
        ),
        number(
            "lambda_r",
            default=_D.lambda_r,
            min=0.0,
            max=1.0,
            step=1e-5,
            round=1e-8,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="λ_r, what a hundred rows of a layer cost in the loss. Higher: smaller files.",
        ),
        number(
            "lambda_e",
            default=_D.lambda_e,
            min=0.0,
            max=1.0,
            step=1e-5,
            round=1e-8,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="λ_e, weight of the cross-attention entropy. 0 leaves it out.",
        ),
        integer(
            "gradient_accumulation",
            default=1,
            min=1,
            max=1024,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Batches that add up to one step.",
        ),
        choice(
            "training_dtype",
            options=list(DTYPES),
            default=_D.dtype,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Precision of the forward pass. fp16 uses a loss scaler. "
            "The adapter itself is always fp32.",
        ),
        switch(
            "gradient_checkpointing",
            default=True,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Recompute activations in the backward pass: less memory, more time.",
        ),
        io.String.Input(
            "run",
            default="lora2",
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Name of the run's folder in output/lora2_runs; a number is added.",
        ),
        integer(
            "save_every",
            default=100,
            min=0,
            max=100_000,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Steps between two states of the run on disk. Cancel and errors keep it in any "
            "case, and with 0 only they do.",
        ),
        choice(
            "resume",
            options=[NEW_RUN, *host.run_names()],
            default=NEW_RUN,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Go on with a run that was stopped, or give a finished one more steps. All "
            "else must be as it was.",
        ),
        number(
            "budget_mb",
            default=0.0,
            min=0.0,
            max=10_000.0,
            step=1.0,
            round=0.01,
            optional=True,
            tooltip="Size of the finished file in fp16 or bf16, in megabytes; the layers share it "
            "by what they learn. Then lambda_r has no say, and the ranks start from what it pays "
            "for. 0: no budget.",
        ),
        RankReport.Input(
            "ranks",
            optional=True,
            tooltip="Ranks to start from, layer by layer: another run's rank_report, or those of "
            "LoRA² Rank Map.",
        ),
        switch(
            "fix_ranks",
            default=False,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Keep the ranks as they start; they are not learned.",
        ),
        Preview.Input(
            "preview",
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Pictures to draw while it trains, from LoRA² Preview.",
        ),
        TrainOptions.Input(
            "options", optional=True, tooltip="From LoRA² Options: optimiser, schedule and more."
        ),
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="Train the text encoders, too. Needs captions; positive then gives the sizes.",
        ),
        io.String.Input(
            "captions",
            optional=True,
            force_input=True,
            tooltip="The texts that positive was made of: one for all, or one an image.",
        ),
        io.String.Input(
            "reg_captions",
            optional=True,
            force_input=True,
            extra_dict=ADVANCED,
            tooltip="The texts of reg_positive.",
        ),
    ]


class LoRA2Train(io.ComfyNode):
    """Trains an adapter on the model that the host has loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Train",
            display_name="LoRA² Train",
            category=CATEGORY,
            description="Trains a LoRA whose every layer learns its own rank.",
            is_input_list=True,  # the dataset nodes give lists, and one run needs all of it
            inputs=_inputs(),
            outputs=[
                LoraModel.Output(display_name="lora", tooltip="For LoRA² Save, Load LoRA Model."),
                LossMap.Output(display_name="loss_map", tooltip="For Plot Loss Graph."),
                RankReport.Output(display_name="rank_report", tooltip="The rank of every layer."),
                io.Int.Output(display_name="steps", tooltip="Steps that were trained."),
                io.Image.Output(
                    display_name="previews",
                    tooltip="All previews on one sheet. Without a preview, what is connected here "
                    "does not run.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls,
        model,
        latents,
        positive,
        reg_latents=None,
        reg_positive=None,
        preview=None,
        clip=None,
        captions=None,
        reg_captions=None,
        **settings,
    ) -> io.NodeOutput:
        model = model[0]
        settings = {name: values[0] for name, values in settings.items()}
        prior_weight = settings.pop("prior_weight", 1.0)
        run, resume = settings.pop("run", "lora2"), settings.pop("resume", NEW_RUN)
        save_every = settings.pop("save_every", 100)
        ranks = settings.pop("ranks", None)
        if settings.pop("fix_ranks", False):
            settings["rank_freeze"] = 1.0
        options = dict(settings.pop("options", None) or {})
        empty = options.pop("empty", None)
        config = _config(settings | options | {"text_encoders": clip is not None})
        check_trainable(model)
        data = _dataset(model, latents, positive, empty, "latents")
        if (reg_latents is None) != (reg_positive is None):
            raise LoRA2Error("reg_latents and reg_positive go together; connect both or neither")
        prior = (
            []
            if reg_latents is None
            else _dataset(model, reg_latents, reg_positive, empty, "reg_latents")
        )
        if clip is not None:
            if preview is not None and not preview[0].readable:
                raise LoRA2Error(
                    "text encoders are trained, and LoRA² Preview has no texts for them to read; "
                    "connect those of its positive to texts, and those of its negative to "
                    "negative_texts"
                )
            clip = clip[0]
            data = _captioned(data, clip, captions, "captions")
            prior = _captioned(prior, clip, reg_captions, "reg_captions") if prior else []
        order = batches(
            data,
            batch_size=config.batch_size,
            accumulation=config.gradient_accumulation,
            seed=config.seed,
            prior=prior,
            prior_weight=prior_weight,
            repeats=config.repeats,
            caption_dropout=config.caption_dropout,
        )
        folder, state = _run(run, resume)
        previews = None
        try:
            with (
                trainable(model, config.dtype) as unet,
                nullcontext(unet) if clip is None else text_trainable(unet, clip) as denoiser,
                host.Progress(
                    config.steps, cls.hidden.unique_id, cls.hidden.extra_pnginfo
                ) as progress,
            ):
                everything = [*data, *prior]
                ranks = ranks and rank_map.of_report(ranks)
                _make_room(denoiser, config, everything, ranks, progress)
                training = Training(denoiser, order, config, ranks)
                if state is not None:
                    training.restore(state)
                if preview is not None:
                    previews = preview[0].previews(folder, denoiser, progress)
                with explained(
                    training,
                    denoiser,
                    everything,
                    lambda: _where(training, folder),
                    host.free_memory,
                ):
                    result = run_kept(
                        training, folder, save_every, progress, logging.warning, previews
                    )
        except TrainingDiverged as error:
            raise LoRA2Error(f"{error}. {_where(training, folder)}") from error
        lora = pack_result(result)
        sheet = None if previews is None else previews.sheet
        return io.NodeOutput(
            lora,
            {"loss": result.losses},
            rank_report.report(lora),
            result.steps,
            host.nothing() if sheet is None else host.image(sheet),
        )


def _config(settings: dict) -> TrainConfig:
    preset = settings.pop("preset")
    settings["dtype"] = settings.pop("training_dtype", _D.dtype)
    if preset == "custom":
        return TrainConfig(**settings)
    settings.pop("r_init", None)
    settings.pop("r_max", None)
    return TrainConfig.preset(preset, **settings)


def _dataset(model, latents, conditioning, empty, what: str) -> list:
    found = examples(model, latents, conditioning, what, empty)
    check_examples(found, latent_channels(model), what)
    return found


def _captioned(examples: list, clip, captions: list[str] | None, name: str) -> list:
    if not captions:
        raise LoRA2Error(
            f"clip is connected, so that text encoders are trained, but {name} is not; connect the "
            "texts of the images"
        )
    return with_captions(examples, clip, captions, "images")


def _make_room(denoiser, config: TrainConfig, examples, ranks, progress: host.Progress) -> None:
    """Says what the run needs of the GPU, and moves what does not fit to main memory."""
    on_gpu = denoiser.device.type != "cpu"
    if not on_gpu and config.offload != "all":
        return
    starts = starting_ranks(denoiser, config, ranks)
    free = None
    if on_gpu:
        free = host.available_memory() + bytes_on(denoiser.network, denoiser.device)
    room = room_for(denoiser, config, examples, starts, free)
    logging.info(f"LoRA² {room.words}")
    if set(room.waiting) != set(denoiser.loan.waiting):
        denoiser.loan.offload(room.waiting)
    if room.waiting and config.offload == "auto":
        waiting = amount(sum(map(weights_of, room.waiting)))
        progress.trouble(f"To fit, {waiting} of the model wait in main memory: steps take longer")
    if room.short:
        progress.trouble(f"This may run out of memory: it {room.words}")


def _where(training: Training, folder: RunFolder) -> str:
    if training.done == 0:
        return "Nothing was trained before that"
    return f"The run is kept as {folder.path.name}, up to step {training.done}"


def _run(name: str, resume: str) -> tuple[RunFolder, RunState | None]:
    """Folder of a new run, or of an old one with its last state."""
    root = host.runs_folder()
    if resume == NEW_RUN:
        return RunFolder(free_name(root, name, "")), None
    folder = RunFolder(root / resume)
    state = folder.newest()
    if state is None:
        raise LoRA2Error(
            f"the run {resume!r} has no state that is whole; choose another, or {NEW_RUN!r}"
        )
    return folder, state
