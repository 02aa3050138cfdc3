"""Folders that commands write to."""

import os
from pathlib import Path

from ..errors import LoRA2Error


def make_folder(folder: Path) -> None:
    """Before minutes or hours of training, not after; raises LoRA2Error if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoRA2Error(
            f"{folder} cannot be made: {error.strerror}; choose another folder"
        ) from None
    if not os.access(folder, os.W_OK):
        raise LoRA2Error(f"{folder} cannot be written to; choose another folder")
