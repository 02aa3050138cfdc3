"""A folder of pictures with captions, as training takes it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..diffusion import captions
from ..errors import LoRA2Error
from . import caption_files, picture_files
from .picture_file import read_picture
from .picture_files import SUFFIXES, Group, some


@dataclass(frozen=True)
class Folder:
    """What a folder held.

    skipped: names of unreadable files, with the reason. repeats: how often each picture is learned
    from in a pass. remarks: what was left out, or chosen. said: how many pictures and captions
    there are, and where they are from; a line each.
    """

    pictures: list[tuple[Image.Image, str]]
    skipped: list[str]
    repeats: list[int]
    remarks: list[str]
    said: list[str]


@dataclass(frozen=True)
class _Entry:
    """A picture file. caption: None where there is none; origin: of the caption."""

    file: Path
    group: Group
    caption: str | None
    origin: str

    @property
    def name(self) -> str:
        return f"{self.group.label}{self.file.name}"


def read_folder(folder: Path, prompt: str | None, resolution: int) -> Folder:
    """Square RGB pictures of side `resolution`, by name, each with its caption; those of
    sub-folders that are named as kohya's are (`10_sks dog`) after the folder's own.

    A caption is the text of the caption file beside the picture, else `prompt`, else the name of
    such a sub-folder. Pictures are scaled until the shorter side fits, and cut in the middle.
    Raises LoRA2Error if the folder is missing or has no readable picture, and, naming all of them,
    if pictures have no caption, or caption files cannot be read.
    """
    groups, remarks = picture_files.look(folder)
    if not groups:
        raise LoRA2Error(
            ". ".join([f"{folder} holds no pictures ({', '.join(SUFFIXES)})", *remarks])
        )
    bad: list[str] = []
    entries = [e for group in groups for e in _entries(group, prompt, bad, remarks)]
    reader = _Reader(resolution)
    _check_captions(entries, bad, reader)
    squares = [(entry, reader.square(entry)) for entry in entries]
    taken = [(entry, square) for entry, square in squares if square is not None]
    skipped = [f"{e.name}: {reader.reasons[e.file]}" for e, square in squares if square is None]
    if not taken:
        raise LoRA2Error(
            f"none of the {len(entries)} pictures in {folder} is readable: {some(skipped)}"
        )
    remarks += [f"{e.name} {remark}" for e, _ in taken for remark in reader.remarks[e.file]]
    used = [entry for entry, _ in taken]
    return Folder(
        [(square, entry.caption) for entry, square in taken],
        skipped,
        [entry.group.repeats for entry in used],
        remarks,
        [f"{len(used)} pictures in {folder}", *_of_groups(used), _of_captions(used)],
    )


def to_tensor(picture: Image.Image | np.ndarray) -> Tensor:
    """RGB picture, or uint8 [h, w, 3], to [1, 3, h, w] in −1..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float().div(127.5).sub(1)


class _Reader:
    """Reads each picture once, and keeps the square alone."""

    def __init__(self, resolution: int):
        self._size = (resolution, resolution)
        self._squares: dict[Path, Image.Image | None] = {}
        self.reasons: dict[Path, str] = {}
        self.remarks: dict[Path, list[str]] = {}

    def square(self, entry: _Entry) -> Image.Image | None:
        """None if the file cannot be read."""
        file = entry.file
        if file not in self._squares:
            self._squares[file] = None
            try:
                picture, self.remarks[file] = read_picture(file)
                self._squares[file] = ImageOps.fit(picture, self._size, Image.Resampling.LANCZOS)
            except LoRA2Error as error:
                self.reasons[file] = str(error)
        return self._squares[file]


def _entries(group: Group, prompt: str | None, bad: list[str], remarks: list[str]) -> list[_Entry]:
    """Adds caption files that cannot be read to bad, and what was chosen to remarks."""
    matched = caption_files.match(group.pictures, group.texts)
    if matched.lonely:
        names = some([f"{group.label}{text.name}" for text in matched.lonely])
        remarks.append(f"captions that belong to no one picture: {names}")
    read: dict[Path, str] = {}
    entries = []
    for picture in group.pictures:
        texts = matched.texts.get(picture)
        if texts is None:
            origin = "prompt" if prompt else "name"
            entries.append(_Entry(picture, group, prompt or group.name, origin))
            continue
        used, *others = texts
        if others:
            names = ", ".join(text.name for text in others)
            remarks.append(f"{group.label}{picture.name}: {used.name} is its caption, not {names}")
        if used not in read:
            read[used] = _text(used, group.label, bad)
        entries.append(_Entry(picture, group, read[used], "file"))
    return entries


def _text(file: Path, label: str, bad: list[str]) -> str:
    try:
        return captions.decoded(file.read_bytes())
    except OSError as error:
        bad.append(f"{label}{file.name} ({error.strerror})")
    except LoRA2Error:
        bad.append(f"{label}{file.name}")
    return ""


def _check_captions(entries: list[_Entry], bad: list[str], reader: _Reader) -> None:
    """A picture that cannot be read needs no caption: one that can be, and has none, will do."""
    lacking = [entry for entry in entries if entry.caption is None]
    wrong = []
    if bad:
        files = "1 caption file" if len(bad) == 1 else f"{len(bad)} caption files"
        wrong.append(
            f"{files} cannot be read as UTF-8, or as UTF-16 with its mark: {', '.join(bad)}; save "
            f"{'it' if len(bad) == 1 else 'them'} as UTF-8"
        )
    if any(reader.square(entry) is not None for entry in lacking):
        first, *others = (entry.name for entry in lacking)
        neither = f", and neither have {', '.join(others)}" if others else ""
        wrong.append(
            f"{first} has no caption{neither}; give a prompt for all, or write "
            f"{Path(first).with_suffix('.txt').as_posix()}{' and so on' if others else ''}"
        )
    if wrong:
        raise LoRA2Error(". ".join(wrong))


def _of_groups(used: list[_Entry]) -> list[str]:
    """A line a sub-folder."""
    groups = {entry.group.label: entry.group for entry in used if entry.group.label}
    counts = {label: sum(entry.group.label == label for entry in used) for label in groups}
    return [
        f"{counts[label]} of them in {label[:-1]}, each {_times(group.repeats)} in a pass"
        for label, group in groups.items()
    ]


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _of_captions(used: list[_Entry]) -> str:
    origins = [entry.origin for entry in used]
    line = (
        f"captions: {origins.count('file')} from files, {origins.count('prompt')} from the prompt"
    )
    named = origins.count("name")
    return f"{line}, {named} from the names of sub-folders" if named else line
