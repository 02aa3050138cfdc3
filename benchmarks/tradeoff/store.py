"""Results on disk: one file, one JSON line a result, each with a stamp of what it depends on."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from lora2_core.demo_model import bundled
from lora2_core.errors import LoRA2Error

from . import cutting, judges, lesson, measure
from .contestants import Contestant
from .external import SETTINGS
from .tasks import Task


def read(path: Path) -> list[dict]:
    """All results. A last line that was torn off is none; raises LoRA2Error for other damage."""
    if not path.exists():
        return []
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(whole, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise LoRA2Error(
                f"line {number} of {path} is damaged; take it out, and that run is made again"
            ) from None
    return found


def append(path: Path, record: Mapping) -> None:
    """Adds a line in one write, after taking away what was torn off before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n"
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.truncate(_whole(file, size))
        file.write(line.encode())
        os.fsync(file.fileno())


def _whole(file, size: int) -> int:
    """Bytes up to the last line's end."""
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def stamp(task: Task, contestant: Contestant) -> str:
    """Of all that a run depends on but its seed and its rate, and that a result tells by itself."""
    bundled.weights()  # compares the checksum
    parts = {
        "weights": bundled.CHECKSUM.read_text().strip(),
        "task": asdict(task),
        "steps": task.steps,
        "pictures": [lesson.PICTURES, lesson.STYLE_PICTURES],
        "probes": [lesson.ALONE, lesson.EACH, lesson.GENERAL],
        "cuts": [cutting.SHARES, cutting.THOUSANDS, measure.STRENGTHS],
        "settings": {**contestant.stamp(), "own": SETTINGS.get(contestant.library)},
    }
    return _digest(json.dumps(parts, sort_keys=True).encode())


def judges_stamp(folder: Path) -> str:
    """Of the judges' files."""
    names = (judges.READER, judges.IDENTITY)
    return _digest(b"".join((folder / name).read_bytes() for name in names))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
