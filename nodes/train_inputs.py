"""What LoRA² Train asks for."""

from comfy_api.latest import io

from ..lora2_core.config import DTYPES, MAX_RANK, METHODS, PRESETS, TARGETS, TrainConfig
from .host import folders
from .job import NEW_RUN
from .sockets import ADVANCED, Preview, RankReport, TrainOptions, seed_input

_D = TrainConfig()


def inputs() -> list:
    """All of LoRA² Train's, in the order of the node."""
    integer, number, choice, switch = io.Int.Input, io.Float.Input, io.Combo.Input, io.Boolean.Input
    return [
        io.Model.Input("model", tooltip="The SDXL or KOALA model to adapt. It is left as it is."),
        io.Latent.Input("latents", tooltip="Encoded images, from Make Training Dataset."),
        io.Conditioning.Input("positive", tooltip="Their captions: one for all, or one an image."),
        choice(
            "preset",
            options=[*PRESETS, "custom"],
            default="balanced",
            tooltip="Mean rank while training, and the highest of a layer: balanced 16/128, small "
            "4/64; custom uses r_init and r_max below. paper: 512/512, and the method as printed.",
        ),
        choice(
            "method",
            options=list(METHODS),
            default=_D.method,
            tooltip="lora2 finds the rank of every layer; ac_lora replaces, ten times a "
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
        seed_input("The same seed gives the same adapter (bit for bit on a CPU)."),
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
            tooltip="Mean rank that lora2 shares out between the layers, and the rank of every "
            "layer with other methods. Used by the preset custom.",
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
            tooltip="Rank towards which every layer is pulled, where ν is learned (preset paper).",
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
            options=[NEW_RUN, *folders.run_names()],
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
            tooltip="Size of the finished file at most, in fp16 or bf16, in megabytes: what does "
            "the most to the loss fills it. 0: no budget.",
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
