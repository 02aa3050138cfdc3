"""What lies in a folder of pictures: those to learn from, their captions, and what is left out."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import LoRA2Error
from . import caption_files

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".apng", ".jpe", ".jfif",
    ".jp2", ".avif", ".heic", ".heif", ".jxl",
)  # fmt: skip
MOST_REPEATS = 1000  # a larger number before a folder's name is a date
_KOHYA = re.compile(r"([0-9]+)_(.*)", re.DOTALL)
_MASKS = ("-masklabel", "-condlabel")  # OneTrainer's
_BESIDE = ("_mask", "-mask", ".mask")  # masks only beside the picture that they mask
_SYSTEM = ("thumbs.db", "desktop.ini")
_NAMED = 10  # files, where all of them would fill the screen


@dataclass(frozen=True)
class Group:
    """The pictures of one folder, in their order, and its caption files.

    label: goes before their names. repeats: how often each is learned from in a pass. name: of
    what they show, as kohya's folders have it, else None.
    """

    label: str
    pictures: list[Path]
    texts: list[Path]
    repeats: int = 1
    name: str | None = None


def look(folder: Path) -> tuple[list[Group], list[str]]:
    """The folder's own pictures, then those of sub-folders that are named as kohya's are
    (`10_sks dog`); and what is left out.

    Hidden files are left out without a word. Raises LoRA2Error if the folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise LoRA2Error(f"{folder} cannot be read: {error.strerror}; give a folder") from None
    group, folders, remarks = _sorted_out(entries, "")
    groups = [group]
    for inner in folders:
        match = _KOHYA.fullmatch(inner.name)
        repeats = int(match[1]) if match else 0
        if not 1 <= repeats <= MOST_REPEATS:
            remarks += _left_out(inner, inner.name, _why_not(match))
            continue
        try:
            within = sorted(inner.iterdir())
        except OSError as error:
            remarks.append(f"{inner.name} cannot be read: {error.strerror}")
            continue
        group, deeper, more = _sorted_out(within, f"{inner.name}/", repeats, match[2] or None)
        groups.append(group)
        remarks += more
        for one in deeper:
            remarks += _left_out(one, f"{inner.name}/{one.name}", "it lies a folder too deep")
    return [group for group in groups if group.pictures], remarks


def some(names: Sequence[str]) -> str:
    """The first of them, and how many there are besides."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _sorted_out(
    entries: Iterable[Path], label: str, repeats: int = 1, name: str | None = None
) -> tuple[Group, list[Path], list[str]]:
    """The group, sub-folders, and what is left out."""
    pictures, texts, folders, others = [], [], [], []
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
            continue
        if os.path.isdir(entry):  # false, and no error, where it may not be asked
            folders.append(entry)
        elif entry.suffix.lower() in SUFFIXES:
            pictures.append(entry)
        elif entry.suffix.lower() in caption_files.ENDINGS:
            texts.append(entry)
        else:
            others.append(entry)
    masks = _masks(pictures)
    pictures = [picture for picture in pictures if picture not in masks]
    remarks = []
    if masks:
        names = some([f"{label}{mask.name}" for mask in sorted(masks)])
        remarks.append(f"masks are not used, and not learned from: {names}")
    if others:
        kinds = Counter(other.suffix.lower() or "without an ending" for other in others)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        where = f" in {label[:-1]}" if label else ""
        remarks.append(f"neither pictures nor captions by their names{where}: {counts}")
    return Group(label, pictures, texts, repeats, name), folders, remarks


def _masks(pictures: Sequence[Path]) -> set[Path]:
    stems = {picture.stem.casefold() for picture in pictures}
    return {picture for picture in pictures if _is_mask(picture.stem.casefold(), stems)}


def _is_mask(stem: str, stems: set[str]) -> bool:
    if stem.endswith(_MASKS):
        return True
    return any(stem.endswith(end) and stem.removesuffix(end) in stems for end in _BESIDE)


def _left_out(folder: Path, label: str, why: str) -> list[str]:
    """A line if there are pictures in it, or below."""
    count = 0
    for _, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        files = [Path(name) for name in names if not name.startswith(".")]
        count += sum(file.suffix.lower() in SUFFIXES for file in files)
    if not count:
        return []
    pictures = "1 picture is" if count == 1 else f"{count} pictures are"
    return [f"{pictures} left out in the folder {label}: {why}"]


def _why_not(match: re.Match | None) -> str:
    if match is None:
        return "only sub-folders named REPEATS_NAME are read, such as 1_dog"
    return f"{match[1]} repeats are not from 1 to {MOST_REPEATS}"
