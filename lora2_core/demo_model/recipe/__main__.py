"""Command line of the recipe."""

import argparse
from pathlib import Path

import torch

from . import __doc__ as usage
from . import autoencoder, denoiser, judge, latents, pictures
from .adopt import adopt
from .export import export


def main() -> None:
    parser = argparse.ArgumentParser(
        description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the states")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    stages = parser.add_subparsers(dest="stage", required=True)
    stage = stages.add_parser("pictures")
    stage.add_argument("--count", type=int, default=40000)
    for name in ("autoencoder", "decoder", "denoiser"):
        stage = stages.add_parser(name)
        stage.add_argument("--minutes", type=float, required=True)
        stage.add_argument("--cooldown", type=float, default=0.0, help="of them, at the end")
    stages.add_parser("latents")
    for name in ("adopt", "export"):
        stages.add_parser(name).add_argument("file", type=Path)
    stages.add_parser("judge")
    stage = stages.add_parser("gate")
    stage.add_argument("file", type=Path)
    stage.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.stage == "pictures":
        pictures.draw(options.work, options.count, options.threads)
    elif options.stage == "autoencoder":
        autoencoder.train(options.work, options.minutes, options.cooldown)
    elif options.stage == "decoder":
        autoencoder.train_decoder(options.work, options.minutes, options.cooldown)
    elif options.stage == "latents":
        latents.encode(options.work)
    elif options.stage == "denoiser":
        denoiser.train(options.work, options.minutes, options.cooldown)
    elif options.stage == "adopt":
        adopt(options.work, options.file)
    elif options.stage == "judge":
        judge.train(options.work)
    elif options.stage == "gate":
        judge.gate(options.work, options.file, options.count)
    else:
        export(options.work, options.file)


if __name__ == "__main__":
    main()
