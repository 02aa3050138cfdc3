"""Preview pictures on disk: step_000100.png, or step_000100_1.png … where a step has several."""

import io
import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

_NAME = re.compile(r"step_(\d{6,})(?:_(\d+))?\.png")
SHEET = "sheet.png"


class PreviewFolder:
    """The pictures of one run. The folder is made when the first picture comes."""

    def __init__(self, path: Path):
        self.path = path

    def steps(self) -> dict[int, list[Path]]:
        """Step → its pictures in order; of what is there now, the first step first."""
        found: dict[int, list[tuple[int, Path]]] = {}
        with suppress(FileNotFoundError):
            for path in self.path.iterdir():
                if match := _NAME.fullmatch(path.name):
                    found.setdefault(int(match[1]), []).append((int(match[2] or 0), path))
        return {step: [path for _, path in sorted(found[step])] for step in sorted(found)}

    def has(self, step: int, count: int) -> bool:
        """Whether all of a step's `count` pictures are there."""
        return all((self.path / name).is_file() for name in _names(step, count))

    def write(self, step: int, pictures: Sequence[Image.Image]) -> None:
        """Raises OSError; each picture appears whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name, picture in zip(_names(step, len(pictures)), pictures, strict=True):
            _write_whole(picture, self.path / name)

    def write_sheet(self, sheet: Image.Image) -> None:
        """Replaces sheet.png; raises OSError."""
        _write_whole(sheet, self.path / SHEET)

    def thumbnail(self, step: int, picture: int, side: int) -> bytes | None:
        """The step's picture of that index as a JPEG of at most `side` px, or None."""
        paths = self.steps().get(step, [])
        if not 0 <= picture < len(paths):
            return None
        with Image.open(paths[picture]) as image:
            small = image.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        small.save(data, "JPEG", quality=88)
        return data.getvalue()


def _names(step: int, count: int) -> list[str]:
    stem = f"step_{step:06d}"
    return [f"{stem}.png"] if count == 1 else [f"{stem}_{i + 1}.png" for i in range(count)]


def _write_whole(picture: Image.Image, path: Path) -> None:
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        picture.save(temporary, "PNG")
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
