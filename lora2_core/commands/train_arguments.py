"""What `train` may be asked for on the command line."""

import argparse
from dataclasses import replace
from pathlib import Path

from ..backbones.prediction import PREDICTIONS
from ..config import AC_MODES, METHODS, OFFLOADS, PRESETS, TARGETS, TrainConfig
from ..files.layout import PRECISIONS
from . import knobs, samples
from .material_arguments import add_computing, add_model, add_pictures
from .words import words

_D = TrainConfig()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("what to train on")
    add_model(data, required=True)
    data.add_argument(
        "--prediction",
        choices=PREDICTIONS,
        default="auto",
        help="what the model predicts; auto: as it says itself (the key v_pred of a checkpoint, or "
        "the folder's scheduler)",
    )
    data.add_argument(
        "--zero-terminal-snr",
        action=argparse.BooleanOptionalAction,
        help="whether the last noise level is noise alone, as in NoobAI-XL with v-prediction "
        "(default: as the model says, by the key ztsnr or its scheduler)",
    )
    add_pictures(data, required=True)
    data.add_argument(
        "--prior-images",
        type=Path,
        help="folder of pictures of the class in general: they keep the model from forgetting it",
    )
    data.add_argument("--prior-prompt", type=words, help='their caption, such as "a dog"')
    data.add_argument("--prior-weight", type=float, default=1.0, help="weight of the loss on them")

    out = parser.add_argument_group("what to write")
    out.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the adapter (.safetensors); an existing file is never replaced",
    )
    out.add_argument(
        "--save-every",
        type=int,
        default=100,
        metavar="STEPS",
        help="keep the run in a folder beside the adapter, named OUT_run, every so many steps; "
        "it is kept on Ctrl-C and on errors in any case, and with 0 only then",
    )
    out.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="RUN",
        help="go on with the run that is kept in OUT_run, or in the folder RUN, to the --steps "
        "that are asked for",
    )
    out.add_argument("--precision", choices=PRECISIONS, default="fp16")
    out.add_argument(
        "--estimate",
        action="store_true",
        help="say how much memory this run would need, and stop; on a GPU it is said in any case",
    )
    out.add_argument(
        "--trigger-words", type=words, default="", help="noted in the file, separated by commas"
    )

    samples.add_arguments(parser)

    method = parser.add_argument_group("how to train")
    method.add_argument(
        "--preset",
        choices=PRESETS,
        default="balanced",
        help="mean rank while training, and the highest: balanced 16/128, small 4/64; paper: "
        "512/512, and the method as it is printed",
    )
    method.add_argument(
        "--method",
        choices=METHODS,
        default=_D.method,
        help="lora2 finds the rank "
        "of every layer; ac_lora replaces directions that carry little by noise, "
        "again and again; lora keeps one rank",
    )
    method.add_argument(
        "--steps",
        type=int,
        default=_D.steps,
        help="the paper: 500 for SDXL, 800 for KOALA, 1000 for lora",
    )
    method.add_argument(
        "--learning-rate",
        type=float,
        default=_D.learning_rate,
        help="of the factors; the preset paper goes with 5e-5",
    )
    method.add_argument(
        "--budget-mb",
        type=float,
        default=_D.budget_mb,
        help="size of the finished file at most, in megabytes: what does the most to the loss "
        "fills it",
    )
    method.add_argument(
        "--ranks",
        type=Path,
        metavar="FILE",
        help="start every layer from the rank that it has in this adapter, or in this JSON of "
        "`ranks` or `inspect --json`",
    )
    method.add_argument("--fix-ranks", action="store_true", help="keep the ranks as they start")
    method.add_argument("--r-init", type=int, help="mean rank, instead of the preset's")
    method.add_argument("--r-max", type=int, help="highest rank, instead of the preset's")
    method.add_argument(
        "--r-target",
        type=float,
        default=_D.r_target,
        help="rank towards which every layer is pulled, where ν is learned (paper)",
    )
    method.add_argument(
        "--lambda-r",
        type=float,
        default=_D.lambda_r,
        help="the price of ranks, where ν is learned (paper); higher makes smaller files",
    )
    method.add_argument(
        "--lambda-e",
        type=float,
        default=_D.lambda_e,
        help="weight of the cross-attention entropy; 0 leaves it out (paper: 1e-4)",
    )
    method.add_argument(
        "--ac-mode",
        choices=AC_MODES,
        default=_D.ac_mode,
        help="ac_lora: cut the product of the factors, or each apart as in its paper",
    )
    method.add_argument("--targets", choices=TARGETS, default=_D.targets)
    method.add_argument("--batch-size", type=int, default=_D.batch_size)
    method.add_argument("--gradient-accumulation", type=int, default=_D.gradient_accumulation)
    method.add_argument(
        "--no-gradient-checkpointing",
        dest="gradient_checkpointing",
        action="store_false",
        help="faster, with more memory",
    )
    method.add_argument(
        "--offload",
        choices=OFFLOADS,
        default=_D.offload,
        help="blocks whose weights wait in main memory until they are computed with, which takes "
        "time and saves GPU memory; auto: as many as it takes to fit",
    )
    add_computing(method)
    knobs.add_arguments(parser)


def config_of(options: argparse.Namespace) -> TrainConfig:
    """The settings of the run; raises LoRA2Error for those that do not go together."""
    names = (
        "method",
        "steps",
        "learning_rate",
        "r_target",
        "lambda_r",
        "lambda_e",
        "budget_mb",
        "ac_mode",
        "targets",
        "batch_size",
        "gradient_accumulation",
        "dtype",
        "gradient_checkpointing",
        "offload",
        "seed",
    )
    chosen = {name: getattr(options, name) for name in names}
    if options.budget_mb:
        chosen["budget_precision"] = options.precision
    if options.fix_ranks:
        chosen["rank_freeze"] = 1.0
    config = TrainConfig.chosen(options.preset, **chosen, **knobs.chosen(options))
    given = {"r_init": options.r_init, "r_max": options.r_max}
    return replace(config, **{name: rank for name, rank in given.items() if rank is not None})
