"""kohya's tables of tags: folder → tag → how many pictures have it."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Table = dict[str, dict[str, int]]

_MOST = 2**53 - 1  # the largest count that every reader of JSON keeps


def read_tags(text: str, joined: bool) -> Table:
    """An untrusted `ss_tag_frequency`; {} for what is none.

    A count is a whole number of 0 to 2⁵³ − 1; text and fractions are read as one where they can
    be, and what is no count of anything stands for 1: the tag was there. joined: whether the table
    is one of `added`, whose first folder holds all tags; it gets its own back.
    """
    try:
        found = json.loads(text, parse_int=_whole)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    table = {
        folder: {tag: _count(count) for tag, count in tags.items()}
        for folder, tags in found.items()
        if isinstance(tags, dict)
    }
    return _apart(table) if joined else table


def added(tables: Sequence[Table]) -> Table:
    """The counts of all tables, folder by folder. The first folder holds the tags of all of them:
    the managers read no other.
    """
    folders: dict[str, Counter] = {}
    for table in tables:
        for folder, tags in table.items():
            folders.setdefault(folder, Counter()).update(tags)
    if folders:
        folders[next(iter(folders))] = _total(folders.values())
    return {
        folder: {tag: min(count, _MOST) for tag, count in tags.items()}
        for folder, tags in folders.items()
    }


def shortened(table: Table, tags: int) -> Table:
    """Of a table of `added` the first folder alone, with that many of the most frequent tags."""
    first = next(iter(table))
    return {first: dict(Counter(table[first]).most_common(tags))}


def _apart(table: Table) -> Table:
    """The first folder without what the others have."""
    if not table:
        return {}
    first, *others = table
    counted = _total(table[folder] for folder in others)
    own = {tag: count - counted[tag] for tag, count in table[first].items()}
    return table | {first: {tag: count for tag, count in own.items() if count > 0}}


def _total(folders: Iterable[Mapping[str, int]]) -> Counter:
    found = Counter()
    for tags in folders:
        found.update(tags)
    return found


def _whole(digits: str) -> int:
    """Of any length, which Python's own limits."""
    if len(digits.lstrip("-")) <= 20:
        return int(digits)
    return -1 if digits.startswith("-") else _MOST


def _count(found: object) -> int:
    if isinstance(found, str) and len(found) <= 20:
        found = _number(found)
    if type(found) not in (int, float) or not math.isfinite(found) or found < 0:
        return 1
    return min(int(found), _MOST)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
