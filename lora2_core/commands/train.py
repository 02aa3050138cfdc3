"""Train an adapter on a folder of pictures."""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageOps

from ..backbones.pictures import read_folder
from ..backbones.pipeline import RESOLUTION, load_checkpoint, load_folder
from ..config import AC_MODES, DTYPES, METHODS, OFFLOADS, PRESETS, TARGETS, TrainConfig
from ..demo_model.backbone import DemoBackbone
from ..demo_model.shapes import PICTURE
from ..diffusion.captions import with_trigger
from ..diffusion.data import Example, batches, check_examples
from ..errors import LoRA2Error
from ..files import writing
from ..files.layout import PRECISIONS
from ..ranks import rank_map
from ..room.advice import explained
from ..room.offload import spread, visiting
from ..room.plan import room_for
from ..runs.packing import pack_result
from ..runs.run_folder import RunFolder, run_kept
from ..training.loop import Training
from ..training.plan import starting_ranks
from ..training.result import TrainingDiverged
from . import knobs, samples
from .folders import make_folder
from .progress import Progress, warn
from .rank_options import check_out
from .ranks import read_report

_D = TrainConfig()
_MULTIPLE = 32  # of pixels: the VAE's factor 8, and two halvings in the UNet
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("what to train on")
    data.add_argument(
        "--model",
        required=True,
        help="`demo` for the bundled model, a diffusers folder, or a single-file SDXL or KOALA "
        "checkpoint (.safetensors)",
    )
    data.add_argument(
        "--tokenizer",
        type=Path,
        help="folder with CLIP's vocab.json and merges.txt, "
        "for a single-file checkpoint (comfy/sd1_tokenizer of a ComfyUI)",
    )
    data.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of four to six pictures or more; a .txt file beside a picture is its caption",
    )
    data.add_argument(
        "--prompt",
        help='caption of all other pictures, such as "a sks dog": a rare '
        "word for the individual, and its class",
    )
    data.add_argument(
        "--resolution",
        type=int,
        help="side of the square that pictures are cut to (default: what the model was made for)",
    )
    data.add_argument(
        "--prior-images",
        type=Path,
        help="folder of pictures of the class in general: they keep the model from forgetting it",
    )
    data.add_argument("--prior-prompt", help='their caption, such as "a dog"')
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
    out.add_argument("--trigger-words", default="", help="noted in the file, separated by commas")

    samples.add_arguments(parser)

    method = parser.add_argument_group("how to train")
    method.add_argument(
        "--preset",
        choices=PRESETS,
        default="balanced",
        help="starting and highest rank: balanced 64/128, small 16/32; paper: 512/512, and the "
        "method as it is printed",
    )
    method.add_argument(
        "--method",
        choices=METHODS,
        default=_D.method,
        help="lora2 learns the rank "
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
        help="size of the finished file in megabytes, instead of --lambda-r: the layers share it "
        "by what they learn",
    )
    method.add_argument(
        "--ranks",
        type=Path,
        metavar="FILE",
        help="start every layer from the rank that it has in this adapter, or in this JSON of "
        "`ranks` or `inspect --json`",
    )
    method.add_argument("--fix-ranks", action="store_true", help="keep the ranks as they start")
    method.add_argument("--r-init", type=int, help="starting rank, instead of the preset's")
    method.add_argument("--r-max", type=int, help="highest rank, instead of the preset's")
    method.add_argument(
        "--r-target",
        type=float,
        default=_D.r_target,
        help="rank towards which every layer is pulled",
    )
    method.add_argument(
        "--lambda-r",
        type=float,
        default=_D.lambda_r,
        help="what a hundred rows of one layer cost in the loss; higher makes smaller files",
    )
    method.add_argument(
        "--lambda-e",
        type=float,
        default=_D.lambda_e,
        help="weight of the cross-attention entropy; 0 leaves it out",
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
        "--dtype",
        choices=DTYPES,
        default=_D.dtype,
        help="of the forward pass; the adapter itself is always fp32",
    )
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
    method.add_argument("--seed", type=int, default=_D.seed)
    method.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    knobs.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Checks everything that can be checked first, then loads, encodes, trains and writes."""
    config = _config(options)
    ranks = None if options.ranks is None else rank_map.of_report(read_report(options.ranks))
    check_out(options.out)
    make_folder(options.out.parent)
    if (options.prior_images is None) != (options.prior_prompt is None):
        raise LoRA2Error("prior-images and prior-prompt go together; give both or neither")
    started = time.time()
    side = _side(options)
    drawing = samples.drawing(options, side)
    pictures = _pictures(options.images, options.prompt, side)
    others = []
    if options.prior_images is not None:
        others = _pictures(options.prior_images, options.prior_prompt, side)
    backbone = load(options)
    captioned = [(p, with_trigger(caption, config.trigger_word)) for p, caption in pictures]
    own, prior = _examples(backbone, captioned, config), _examples(backbone, others, config)
    paint = None if drawing is None else backbone.painter(drawing)
    backbone.forget_encoders()
    order = batches(
        own,
        batch_size=config.batch_size,
        accumulation=config.gradient_accumulation,
        seed=config.seed,
        prior=prior,
        prior_weight=options.prior_weight,
        repeats=config.repeats,
        caption_dropout=config.caption_dropout,
    )
    facts = {
        "trigger_words": options.trigger_words or config.trigger_word,
        "train_images": len(pictures),
        "resolution": (side, side),
        "started_at": started,
    }
    denoiser, device, examples = backbone.denoiser, backbone.device, [*own, *prior]
    waiting = []
    if options.estimate or config.offload == "all" or device.type == "cuda":
        starts = starting_ranks(denoiser, config, ranks)
        room = room_for(denoiser, config, examples, starts, _free(device))
        short = "; this may run out of memory" if room.short else ""
        print(f"{room.words}{short}", flush=True)
        if options.estimate:
            return
        waiting = room.waiting
    spread(denoiser.network, waiting, device)
    training = Training(denoiser, order, config, ranks)
    folder = RunFolder(_run_path(options), **facts)
    _begin(training, folder, options)
    previews = None
    if paint is not None:
        previews = samples.previews(training, folder, paint, options, warn)
    try:
        with (
            visiting(waiting, device),
            explained(
                training,
                denoiser,
                examples,
                lambda: _where(training, folder),
                torch.cuda.empty_cache,
            ),
        ):
            result = run_kept(training, folder, options.save_every, Progress(), warn, previews)
    except TrainingDiverged as error:
        raise LoRA2Error(f"{error}. {_where(training, folder)}") from error
    except KeyboardInterrupt:
        raise LoRA2Error(f"stopped. {_where(training, folder)}") from None
    state = pack_result(result, **facts)
    path = writing.write(state, options.out, precision=options.precision)
    ranks = sorted(rank for _, rank in result.ranks.values())
    print(
        f"saved {path} ({path.stat().st_size / 1e6:.2f} MB, {len(ranks)} components of rank "
        f"{ranks[0]} to {ranks[-1]}, mean {sum(ranks) / len(ranks):.1f})"
    )


def load(options: argparse.Namespace):
    """The backbone behind --model; raises LoRA2Error, naming it, for what cannot be trained."""
    text = options.text_encoders
    if options.model == "demo":
        if text:
            raise LoRA2Error(
                "text-encoders is set, but that of the demo model is a list of words; leave it out"
            )
        return DemoBackbone()
    path = Path(options.model)
    device = _device(options.device)
    dtype = torch.float32 if device.type == "cpu" else _DTYPES[options.dtype]
    if path.is_dir():
        return load_folder(path, device=device, dtype=dtype, text_encoders=text)
    if not path.exists():
        raise LoRA2Error(f"{path} does not exist; give `demo`, a folder or a .safetensors file")
    return load_checkpoint(path, options.tokenizer, device=device, dtype=dtype, text_encoders=text)


def _side(options: argparse.Namespace) -> int:
    side = options.resolution
    if side is None:
        return PICTURE if options.model == "demo" else RESOLUTION
    if side < _MULTIPLE or side % _MULTIPLE:
        raise LoRA2Error(f"resolution is {side}; choose a multiple of {_MULTIPLE}")
    return side


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LoRA2Error(f"device {name!r} cannot be used ({error}); choose cpu or cuda") from None
    return device


def _config(options: argparse.Namespace) -> TrainConfig:
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
    given = {"r_init": options.r_init, "r_max": options.r_max}
    chosen |= {name: rank for name, rank in given.items() if rank is not None}
    if options.budget_mb:
        chosen["budget_precision"] = options.precision
    if options.fix_ranks:
        chosen["rank_freeze"] = 1.0
    return TrainConfig.preset(options.preset, **chosen, **knobs.chosen(options))


def _pictures(folder: Path, prompt: str | None, side: int) -> list[tuple[Image.Image, str]]:
    found = read_folder(folder, prompt, side)
    for reason in found.skipped:
        print(f"skipped {reason}", file=sys.stderr)
    print(f"{len(found.pictures)} pictures in {folder}", flush=True)
    return found.pictures


def _examples(
    backbone, pictures: list[tuple[Image.Image, str]], config: TrainConfig
) -> list[Example]:
    if config.horizontal_flip:
        pictures = [*pictures, *((ImageOps.mirror(p), caption) for p, caption in pictures)]
    examples = [backbone.example(picture, caption) for picture, caption in pictures]
    if config.caption_dropout > 0 and pictures:
        empty = backbone.conditioning(pictures[0][0].size, "")  # all are of one size
        examples = [replace(example, empty=empty) for example in examples]
    if examples:
        check_examples(examples, backbone.channels)
    return examples


def _run_path(options: argparse.Namespace) -> Path:
    if options.resume is not None and options.resume != Path():
        return options.resume
    return options.out.with_name(f"{options.out.stem}_run")


def _begin(training: Training, folder: RunFolder, options: argparse.Namespace) -> None:
    state = folder.newest()
    if options.resume is not None:
        if state is None:
            raise LoRA2Error(f"there is no run in {folder.path}; leave --resume out to begin one")
        training.restore(state)
        print(f"goes on after step {training.done}", flush=True)
    elif state is not None:
        raise LoRA2Error(
            f"{folder.path} holds a run of {state.step} steps; add --resume to go on with it, or "
            "choose another --out"
        )


def _free(device: torch.device) -> int | None:
    """Bytes of a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # of encoders that are gone
    return torch.cuda.mem_get_info(device)[0]


def _where(training: Training, folder: RunFolder) -> str:
    if training.done == 0:
        return "Nothing was trained before that"
    return f"The run is kept in {folder.path}, up to step {training.done}; --resume goes on with it"
