"""The host's folders: LoRAs, output, and the runs that are kept there."""

from contextlib import suppress
from pathlib import Path

import folder_paths

from ...lora2_core.errors import LoRA2Error


def loras_folder() -> Path:
    """Where new adapters go: the first of the host's loras folders."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def output_folder() -> Path:
    return Path(folder_paths.get_output_directory())


def runs_folder() -> Path:
    """Where training runs are kept."""
    return output_folder() / "lora2_runs"


def run_names() -> list[str]:
    """Folders of runs that left a state, the latest first."""
    states = runs_folder().glob("*/*.state.safetensors")
    latest: dict[str, float] = {}
    for path in states:
        with suppress(OSError):  # it may go in the meantime
            name = path.parent.name
            latest[name] = max(latest.get(name, 0.0), path.stat().st_mtime)
    return sorted(latest, key=latest.get, reverse=True)


def lora_names() -> list[str]:
    """Names of the loras folders' files, as the host's own loaders list them."""
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """The file behind a name of the list; raises LoRA2Error if it is gone or outside."""
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise LoRA2Error(f"{name!r} is not in the loras folder; refresh the page and choose again")
    return Path(path)
