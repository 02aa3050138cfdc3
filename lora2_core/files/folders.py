"""Folders that are written to, looked at before the work and not after."""

import tempfile
from pathlib import Path

from ..errors import LoRA2Error


def make_folder(folder: Path) -> None:
    """Makes it and tries it; raises LoRA2Error, naming the part that is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        part = _file_among(folder)
        reason = error.strerror if part is None else f"{part} is a file and no folder"
        raise LoRA2Error(f"{folder} cannot be made: {reason}; choose another folder") from None
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LoRA2Error(
            f"{folder} cannot be written to ({error.strerror}); choose another folder"
        ) from None


def _file_among(folder: Path) -> Path | None:
    """The folder or the one above it that is there and is no folder."""
    try:
        there = next(part for part in (folder, *folder.parents) if part.exists())
    except (OSError, StopIteration):
        return None
    return None if there.is_dir() else there
