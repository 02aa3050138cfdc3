"""Where the trained judges are: small enough to come with the code, so that a later result can
stand beside an earlier one."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

FOLDER = Path(__file__).resolve().parent / "trained_judges"
T = TypeVar("T", bound=nn.Module)
READER, IDENTITY = "reader.safetensors", "identity.safetensors"


def save(network: nn.Module, file: Path) -> None:
    """In half precision."""
    state = network.state_dict()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, file)


def load(make: Callable[[], T], file: Path) -> T:
    """In single precision, for reading alone."""
    network = make().eval().requires_grad_(False)
    state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()}
    network.load_state_dict(state)
    return network
