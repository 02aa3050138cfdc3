"""The host's folders: LoRAs, output, and the runs that are kept there."""

import tempfile
from contextlib import suppress
from pathlib import Path

import folder_paths

from ...lora2_core.errors import LoRA2Error


def loras_folder() -> Path:
    """Where new adapters go: the first of the host's loras folders that can be written to.

    Raises LoRA2Error, naming them, if there is none.
    """
    folders = [Path(folder) for folder in folder_paths.get_folder_paths("loras")]
    for folder in folders:
        if _can_be_written(folder):
            return folder
    raise LoRA2Error(
        f"none of the loras folders can be written to ({', '.join(map(str, folders))}); give "
        "ComfyUI the right to, or add one to extra_model_paths.yaml"
    )


def _can_be_written(folder: Path) -> bool:
    """Whether it is there, or can be made; tried, since rights alone do not tell (shares, Windows,
    an administrator before a disk that is read-only)."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:
        return False


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
    """The file behind a name of the list; raises LoRA2Error if it is gone or outside.

    A name from a machine whose separator is another one is the same name.
    """
    for spelt in (name, name.replace("\\", "/"), name.replace("/", "\\")):
        path = folder_paths.get_full_path("loras", spelt)
        if path is not None:
            return Path(path)
    raise LoRA2Error(f"{name!r} is not in the loras folder; refresh the page and choose again")


def known_lora(name: str) -> bool | str:
    """For a node's validation: True, or why there is no such file."""
    try:
        lora_path(name)
    except LoRA2Error as error:
        return str(error)
    return True
