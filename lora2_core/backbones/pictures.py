"""A folder of pictures with captions, as training takes it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import LoRA2Error

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Folder:
    """What a folder held. skipped: names of unreadable files, with the reason."""

    pictures: list[tuple[Image.Image, str]]
    skipped: list[str]


def read_folder(folder: Path, prompt: str | None, resolution: int) -> Folder:
    """Square RGB pictures of side `resolution`, by name, each with its caption.

    A caption is the text of the .txt file beside the picture, else `prompt`. Pictures are scaled
    until the shorter side fits, and cut in the middle. Raises LoRA2Error if the folder is missing
    or has no readable picture, or a picture has no caption.
    """
    try:
        files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise LoRA2Error(f"{folder} cannot be read: {error.strerror}; give a folder") from None
    if not files:
        raise LoRA2Error(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    pictures, skipped = [], []
    for file in files:
        try:
            with Image.open(file) as image:
                picture = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
            skipped.append(f"{file.name}: {error}")
            continue
        square = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
        pictures.append((square, _caption(file, prompt)))
    if not pictures:
        raise LoRA2Error(f"none of the {len(files)} pictures in {folder} is readable: {skipped[0]}")
    return Folder(pictures, skipped)


def to_tensor(picture: Image.Image | np.ndarray) -> Tensor:
    """RGB picture, or uint8 [h, w, 3], to [1, 3, h, w] in −1..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float().div(127.5).sub(1)


def _caption(file: Path, prompt: str | None) -> str:
    beside = file.with_suffix(".txt")
    try:
        text = beside.read_text(encoding="utf-8").strip() if beside.is_file() else prompt
    except (OSError, UnicodeDecodeError) as error:
        raise LoRA2Error(f"the caption {beside.name} cannot be read: {error}") from None
    if not text:
        raise LoRA2Error(
            f"{file.name} has no caption; give a prompt for all, or write {beside.name}"
        )
    return text
