"""Which caption file belongs to which picture of a folder."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ENDINGS = (".txt", ".caption")  # in any case; the first goes before the second


@dataclass(frozen=True)
class Matched:
    """texts: the caption files of each picture that has any, the one that counts first. lonely:
    those of no picture.
    """

    texts: dict[Path, list[Path]]
    lonely: list[Path]


def match(pictures: Sequence[Path], texts: Sequence[Path]) -> Matched:
    """Pairs by name, of files in one folder.

    `a.txt` belongs to the pictures of stem `a`, `a.png.txt` to `a.png`. A caption file goes to the
    pictures that its name fits best: to the letter, else in the other normal form of Unicode, else
    in another case. One that fits several stems so, and none to the letter, is lonely.
    """
    tables = [
        (spelt, _table(pictures, named, spelt))
        for spelt in (_to_the_letter, _normal, _caseless)
        for named in (_stem, _name)
    ]
    found: dict[Path, list[tuple]] = {}
    lonely = []
    for text in texts:
        fits = [table.get(spelt(text.stem), []) for spelt, table in tables]
        rank = next((rank for rank, fitting in enumerate(fits) if fitting), None)
        if rank is None or len({_normal(picture.stem) for picture in fits[rank]}) > 1:
            lonely.append(text)
            continue
        ending = text.suffix.lower()
        order = (rank, ENDINGS.index(ending), text.suffix != ending, text.name)
        for picture in fits[rank]:
            found.setdefault(picture, []).append((order, text))
    return Matched({p: [text for _, text in sorted(of)] for p, of in found.items()}, lonely)


def _table(
    pictures: Sequence[Path], named: Callable[[Path], str], spelt: Callable[[str], str]
) -> dict[str, list[Path]]:
    table: dict[str, list[Path]] = {}
    for picture in pictures:
        table.setdefault(spelt(named(picture)), []).append(picture)
    return table


def _stem(picture: Path) -> str:
    return picture.stem


def _name(picture: Path) -> str:
    return picture.name


def _to_the_letter(name: str) -> str:
    return name


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _caseless(name: str) -> str:
    return _normal(_normal(name).casefold())
