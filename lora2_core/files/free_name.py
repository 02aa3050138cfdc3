"""Numbered file names that are free, that every system takes, and that never leave their folder."""

import itertools
import os
from pathlib import Path

from ..errors import LoRA2Error
from .header import shown

SUFFIX = ".safetensors"
_UNPORTABLE = set('\\:*?"<>|')  # not allowed in a file name on Windows
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{i}" for p in ("COM", "LPT") for i in range(1, 10))}
_LONGEST_PART = 200  # bytes; file systems allow 255, and a number and the suffix follow


def free_name(folder: str | os.PathLike, prefix: str, suffix: str = SUFFIX) -> Path:
    """The first free of prefix_00001, prefix_00002, … in `folder`, which the result never leaves.

    prefix may name sub-folders ("dogs/rex"). Raises LoRA2Error, naming the prefix, for one that is
    empty, absolute, climbs out of the folder (also through a symbolic link), or is no file name on
    every system.
    """
    parts = prefix.strip().split("/")
    for part in parts:
        _check_part(prefix, part)
    try:
        root = Path(folder).resolve()
        parent = root.joinpath(*parts[:-1]).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise LoRA2Error(f"the name {prefix!r} leads nowhere ({error}); choose another") from error
    if not parent.is_relative_to(root):
        raise LoRA2Error(f"the name {prefix!r} leads out of {root}; choose a name inside it")
    names = (parent / f"{parts[-1]}_{number:05d}{suffix}" for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def _check_part(prefix: str, part: str) -> None:
    wrong = (
        part in ("", ".", "..")
        or part != part.rstrip(". ")  # Windows drops these, so that ".. " would be ".."
        or any(letter in _UNPORTABLE or ord(letter) < 32 for letter in part)
        or part.split(".")[0].strip().upper() in _RESERVED
        or len(part.encode("utf-8", "surrogatepass")) > _LONGEST_PART
        or any(0xD800 <= ord(letter) < 0xE000 for letter in part)
    )
    if wrong:
        raise LoRA2Error(
            f"the name {shown(prefix)} cannot be used; choose letters, digits, spaces, - and _, "
            "with / between sub-folders"
        )
