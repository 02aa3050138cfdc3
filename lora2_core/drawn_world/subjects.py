"""Individuals that no caption of the world describes; they are data."""

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import LoRA2Error
from .objects import KINDS
from .patterns import PATTERNS
from .pen import Colour
from .wear import EMBLEMS, EXTRAS

BUNDLED = Path(__file__).with_name("subjects.json")


@dataclass(frozen=True)
class Subject:
    """One individual. parts: part of its kind → colour; emblem, extra: (name, colour) or None."""

    name: str
    kind: str
    pattern: str
    colours: tuple[Colour, Colour]
    parts: tuple[tuple[str, Colour], ...] = ()
    emblem: tuple[str, Colour] | None = None
    extra: tuple[str, Colour] | None = None


def load_subjects(path: Path = BUNDLED) -> dict[str, Subject]:
    """Name → subject, from a JSON object of subjects.

    Raises LoRA2Error naming the file, the subject, the value and what is allowed.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LoRA2Error(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LoRA2Error(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or not data:
        raise LoRA2Error(f"{path} must hold an object of subjects, name to look")
    return {
        name: _Reader(f"{path}: subject {name!r}", name, look).read() for name, look in data.items()
    }


class _Reader:
    """Checks one subject of a file."""

    _KEYS = ("kind", "pattern", "colours", "parts", "emblem", "extra")

    def __init__(self, where: str, name: str, look):
        self.where, self.name, self.look = where, name, look

    def read(self) -> Subject:
        if not isinstance(self.look, dict):
            self._fail(f"is {self.look!r}", "an object")
        for key in self.look:
            self._choice("key", key, self._KEYS)
        kind = self._choice("kind", self.look.get("kind"), KINDS)
        pattern = self._choice("pattern", self.look.get("pattern", "solid"), PATTERNS)
        colours = self.look.get("colours")
        wanted = 1 if pattern == "solid" else 2
        if not isinstance(colours, list) or len(colours) != wanted:
            self._fail(f"colours is {colours!r}", f"a list of {wanted} for {pattern}")
        first, second = self._colour(colours[0]), self._colour(colours[-1])
        parts = self.look.get("parts", {})
        if not isinstance(parts, dict):
            self._fail(f"parts is {parts!r}", "an object of part and colour")
        return Subject(
            self.name,
            kind,
            pattern,
            (first, second),
            tuple(
                (self._choice("part", part, KINDS[kind].parts), self._colour(colour))
                for part, colour in parts.items()
            ),
            self._sign("emblem", EMBLEMS),
            self._sign("extra", EXTRAS),
        )

    def _sign(self, key: str, known) -> tuple[str, Colour] | None:
        value = self.look.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            self._fail(f"{key} is {value!r}", "a list of name and colour")
        return self._choice(key, value[0], known), self._colour(value[1])

    def _choice(self, what: str, value, known):
        if not isinstance(value, str) or value not in known:
            self._fail(f"{what} is {value!r}", f"one of {', '.join(known)}")
        return value

    def _colour(self, value) -> Colour:
        text = value.removeprefix("#") if isinstance(value, str) else ""
        if len(text) != 6 or any(c not in "0123456789abcdefABCDEF" for c in text):
            self._fail(f"a colour is {value!r}", 'six hex digits, as in "#2a9d8f"')
        return tuple(int(text[i : i + 2], 16) for i in (0, 2, 4))

    def _fail(self, found: str, allowed: str):
        raise LoRA2Error(f"{self.where}: {found}; give {allowed}")
