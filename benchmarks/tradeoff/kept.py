"""Factors of runs, kept for the pictures, which can come later; a folder outside the results."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from .cutting import Factors
from .plan import Run

FOLDER = Path.home() / ".cache" / "lora2_tradeoff"


def keep(folder: Path, run: Run, stamp: str, factors: Factors) -> None:
    """In half precision, as a file has them; it appears whole or not at all."""
    path = _path(folder, run, stamp)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {
        f"{role}.{name}": tensor.half().contiguous()
        for name, (down, up) in factors.items()
        for role, tensor in (("down", down), ("up", up))
    }
    temporary = path.with_suffix(".tmp")
    save_file(parts, temporary)
    temporary.replace(path)


def get(folder: Path, run: Run, stamp: str) -> Factors | None:
    """In fp32; None if it is not there."""
    path = _path(folder, run, stamp)
    if not path.exists():
        return None
    parts = {name: tensor.float() for name, tensor in load_file(path).items()}
    names = [name.removeprefix("down.") for name in parts if name.startswith("down.")]
    return {name: (parts[f"down.{name}"], parts[f"up.{name}"]) for name in names}


def _path(folder: Path, run: Run, stamp: str) -> Path:
    return folder / stamp / f"{run.contestant}.{run.seed}.{run.step}.safetensors"
