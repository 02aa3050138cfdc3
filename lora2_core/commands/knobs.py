"""Options of training that are off unless they are asked for."""

import argparse

from ..config import (
    IMPORTANCES,
    LR_SCHEDULERS,
    OPTIMIZERS,
    STARTS,
    TIMESTEP_BIASES,
    TrainConfig,
)
from .words import words

_D = TrainConfig()
_NAMES = (
    "optimizer",
    "lr_scheduler",
    "lr_warmup_steps",
    "lr_cycles",
    "lr_power",
    "min_snr_gamma",
    "noise_offset",
    "timestep_bias",
    "timestep_bias_multiplier",
    "timestep_bias_portion",
    "timestep_bias_begin",
    "timestep_bias_end",
    "caption_dropout",
    "repeats",
    "horizontal_flip",
    "text_encoders",
    "trigger_word",
    "ema_decay",
    "effect_share",
    "start",
    "start_share",
    "importance",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what may be left as it is")

    def number(name: str, kind: type, text: str) -> None:
        group.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=getattr(_D, name), help=text
        )

    group.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default=_D.optimizer,
        help="of A and B; ν is always moved by AdamW. adamw8bit needs bitsandbytes, prodigy needs "
        "prodigyopt and --learning-rate 1",
    )
    group.add_argument(
        "--lr-scheduler",
        choices=LR_SCHEDULERS,
        default=_D.lr_scheduler,
        help="how the learning rate of A and B falls over the run",
    )
    number("lr_warmup_steps", int, "steps over which that rate rises from 0")
    number("lr_cycles", int, "cosine_with_restarts: how often it starts anew")
    number("lr_power", float, "polynomial: its exponent")
    number("min_snr_gamma", float, "γ of min-SNR weighting of the loss, such as 5; 0: none")
    number("noise_offset", float, "noise that a whole channel shares, such as 0.05; 0: none")
    group.add_argument(
        "--timestep-bias",
        choices=TIMESTEP_BIASES,
        default=_D.timestep_bias,
        help="noise levels to train more often: those of little noise, of much, or a range",
    )
    number("timestep_bias_multiplier", float, "how much more often")
    number("timestep_bias_portion", float, "earlier and later: share of the levels")
    number("timestep_bias_begin", int, "range: first of the levels, of which there are 1000")
    number("timestep_bias_end", int, "range: the level after the last")
    number("caption_dropout", float, "chance that a picture comes without its caption, such as 0.1")
    number("repeats", int, "times that a pass holds every picture; fills batches if they are few")
    group.add_argument(
        "--horizontal-flip",
        action="store_true",
        help="learn from every picture's mirror image, too; not for what is not symmetrical",
    )
    group.add_argument(
        "--text-encoders",
        action="store_true",
        help="adapt the attention of both text encoders, too; captions are then encoded anew at "
        "every step",
    )
    group.add_argument(
        "--trigger-word",
        type=words,
        default=_D.trigger_word,
        metavar="WORD",
        help="put before every caption of --images that lacks it, and noted in the file",
    )
    number(
        "ema_decay", float, "save a moving average of the adapter, such as 0.99; 0: its last state"
    )
    number(
        "effect_share",
        float,
        "lora2: share of the effect on the loss that the finished file keeps; 1 keeps every row",
    )
    group.add_argument(
        "--start",
        choices=STARTS,
        default=_D.start,
        help="lora2: ranks and directions by the gradient of the untrained model, or one rank for "
        "all layers",
    )
    number("start_share", float, "of the steps, so many batches is that gradient taken of")
    group.add_argument(
        "--importance",
        choices=IMPORTANCES,
        default=_D.importance,
        help="lora2: all rows of a layer alike, or Λ and a learned ν, which decides the rank",
    )


def chosen(options: argparse.Namespace) -> dict:
    """The fields of TrainConfig that add_arguments asks for."""
    return {name: getattr(options, name) for name in _NAMES}
