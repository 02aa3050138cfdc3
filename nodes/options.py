"""LoRA² Options."""

from comfy_api.latest import io

from ..lora2_core.config import (
    IMPORTANCES,
    LR_SCHEDULERS,
    OFFLOADS,
    OPTIMIZERS,
    STARTS,
    TIMESTEP_BIASES,
    TrainConfig,
)
from .sockets import ADVANCED, CATEGORY, TrainOptions

_D = TrainConfig()


def _inputs() -> list:
    integer, number, choice = io.Int.Input, io.Float.Input, io.Combo.Input
    return [
        choice(
            "optimizer",
            options=list(OPTIMIZERS),
            default=_D.optimizer,
            tooltip="Of A and B; ν is always moved by AdamW. adamw8bit needs bitsandbytes; prodigy "
            "needs prodigyopt, and a learning_rate of 1.",
        ),
        choice(
            "lr_scheduler",
            options=list(LR_SCHEDULERS),
            default=_D.lr_scheduler,
            tooltip="How the learning rate of A and B falls over the run.",
        ),
        integer(
            "lr_warmup_steps",
            default=_D.lr_warmup_steps,
            min=0,
            max=100_000,
            tooltip="Steps over which that rate rises from 0.",
        ),
        number(
            "min_snr_gamma",
            default=_D.min_snr_gamma,
            min=0.0,
            max=100.0,
            step=0.5,
            round=0.001,
            tooltip="γ of min-SNR weighting of the loss, such as 5. 0 switches it off.",
        ),
        number(
            "noise_offset",
            default=_D.noise_offset,
            min=0.0,
            max=1.0,
            step=0.01,
            round=0.0001,
            tooltip="Noise that a whole channel shares, such as 0.05, for very dark and very "
            "bright pictures. 0 switches it off.",
        ),
        number(
            "caption_dropout",
            default=_D.caption_dropout,
            min=0.0,
            max=1.0,
            step=0.05,
            round=0.0001,
            tooltip="Chance that an image comes without its caption, such as 0.1. Connect empty.",
        ),
        integer(
            "repeats",
            default=_D.repeats,
            min=1,
            max=1000,
            tooltip="Times that a pass over the set holds every image; fills batches if images "
            "are few.",
        ),
        number(
            "ema_decay",
            default=_D.ema_decay,
            min=0.0,
            max=0.99999,
            step=0.001,
            round=0.00001,
            tooltip="Output a moving average of the adapter, such as 0.99. 0: its last state.",
        ),
        io.Conditioning.Input(
            "empty",
            optional=True,
            tooltip="An empty prompt, encoded by the same CLIP. For caption_dropout.",
        ),
        choice(
            "timestep_bias",
            options=list(TIMESTEP_BIASES),
            default=_D.timestep_bias,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Noise levels to train more often: earlier has little noise, later much, range "
            "begins and ends below.",
        ),
        number(
            "timestep_bias_multiplier",
            default=_D.timestep_bias_multiplier,
            min=0.01,
            max=1000.0,
            step=0.5,
            round=0.001,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="How much more often.",
        ),
        number(
            "timestep_bias_portion",
            default=_D.timestep_bias_portion,
            min=0.01,
            max=1.0,
            step=0.05,
            round=0.0001,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="earlier and later: share of the levels.",
        ),
        integer(
            "timestep_bias_begin",
            default=_D.timestep_bias_begin,
            min=0,
            max=999,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="range: the first of the levels, of which there are 1000.",
        ),
        integer(
            "timestep_bias_end",
            default=_D.timestep_bias_end,
            min=1,
            max=1000,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="range: the level after the last.",
        ),
        integer(
            "lr_cycles",
            default=_D.lr_cycles,
            min=1,
            max=1000,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="cosine_with_restarts: how often the rate starts anew.",
        ),
        number(
            "lr_power",
            default=_D.lr_power,
            min=0.01,
            max=100.0,
            step=0.1,
            round=0.001,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="polynomial: its exponent. 1 is a straight line.",
        ),
        choice(
            "offload",
            options=list(OFFLOADS),
            default=_D.offload,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Blocks of the model whose weights wait in main memory until they are computed "
            "with: less GPU memory, more time. auto: as many as it takes to fit.",
        ),
        number(
            "effect_share",
            default=_D.effect_share,
            min=0.01,
            max=1.0,
            step=0.001,
            round=0.0001,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="Share of the effect on the loss that the finished file keeps; 1 keeps every "
            "row.",
        ),
        choice(
            "start",
            options=list(STARTS),
            default=_D.start,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="lora2: ranks and directions by what the images ask of each layer before the "
            "first step, or one rank for all layers.",
        ),
        choice(
            "importance",
            options=list(IMPORTANCES),
            default=_D.importance,
            optional=True,
            extra_dict=ADVANCED,
            tooltip="lora2: flat lets all rows of a layer learn alike; with the others ν is "
            "learned and decides the rank, as the preset paper has it.",
        ),
    ]


class LoRA2Options(io.ComfyNode):
    """The choices of a training run that most runs leave as they are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Options",
            display_name="LoRA² Options",
            category=CATEGORY,
            description="Optimiser, schedule, loss weighting and other choices for LoRA² Train. "
            "As it comes it changes nothing.",
            inputs=_inputs(),
            outputs=[TrainOptions.Output(display_name="options", tooltip="For LoRA² Train.")],
        )

    @classmethod
    def execute(cls, **options) -> io.NodeOutput:
        return io.NodeOutput(options)
