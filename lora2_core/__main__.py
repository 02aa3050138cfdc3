"""Adaptive-rank LoRA without ComfyUI."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from .commands.quiet import quiet, without_bars
from .commands.streams import guarded
from .errors import LoRA2Error

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
COMMANDS = {
    "demo": "see the whole thing work, on a model that comes with it",
    "train": "train an adapter on a folder of pictures",
    "ranks": "average the ranks of adapters, for another training to start from",
    "inspect": "show the ranks of an adapter",
    "merge": "merge adapters of any ranks into one",
    "compress": "make an adapter smaller, with the least loss",
    "expand": "bring all components of an adapter to one rank",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 0 on success, 2 for an error that the user can mend, 130 if interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    with guarded() as streams, quiet():
        try:
            return streams.code(_exit_code(given))
        except SystemExit as stop:  # argparse's, of --help and of arguments that it refuses
            stop.code = streams.code(stop.code)
            raise


def _exit_code(given: list[str]) -> int:
    try:
        _run(given)
    except LoRA2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ImportError, RuntimeError) as error:  # transformers wraps the one in the other
        package = _missing_package(error)
        if package is None:
            raise
        print(
            f"error: the package {package} is not installed; run "
            f"`{sys.executable} -m pip install -r {REQUIREMENTS}`",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        over = "\r" if sys.stderr.isatty() else ""  # the ^C that a terminal echoes
        print(f"{over}interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _run(given: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m lora2_core", description=__doc__)
    verbs = parser.add_subparsers(dest="command", required=True, metavar="command")
    command = None
    for name, summary in COMMANDS.items():
        described = verbs.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name in given[:1]:  # the others may take seconds to import
            command = import_module(f".commands.{name}", __package__)
            command.add_arguments(described)
    options = parser.parse_args(given)  # leaves by itself where there is no such command
    with without_bars():
        command.run(options)


def _missing_package(error: BaseException | None) -> str | None:
    """The package, not of ours, for want of which it was raised."""
    while error is not None:
        name = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        package = (name or "lora2_core").partition(".")[0]
        if package != "lora2_core":
            return package
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    sys.exit(main())
