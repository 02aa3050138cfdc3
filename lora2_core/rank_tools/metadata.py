"""Metadata of adapters that were made from others."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from ..files.effect_note import EFFECT_NOTE, effect_note
from ..files.header import PEFT_NOTE, shown
from ..files.metadata import (
    NOTE,
    NOTE_VERSION,
    read_absent,
    read_rank_note,
    with_trigger_words,
)
from .adapters import Adapter
from .tags import Table, added, read_tags, shortened

_MOST = 16_000_000  # bytes of strangers' values; a header may have 100 million, tensors included
_MOST_TAGS = 8_000_000  # bytes of them for the joined table of tags
_LONGEST_WORD = 1000  # characters
_MOST_WORDS = 1000  # trigger words
_TAGS, _WORDS = "ss_tag_frequency", "modelspec.trigger_phrase"
_SEPARATORS = re.compile(r"[,;|\t\r\n\f\v\x85\u2028\u2029，、；｜]")
_STALE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash", "modelspec.title",
          "modelspec.thumbnail", "ss_output_name", "ss_network_dim", "ss_network_alpha",
          PEFT_NOTE, NOTE, EFFECT_NOTE)  # fmt: skip


class Described(NamedTuple):
    """metadata: of the new file. left_out: what of the inputs' it does not hold, in words."""

    metadata: dict[str, str]
    left_out: tuple[str, ...] = ()


def of_compressed(adapter: Adapter) -> Described:
    """The input's, but for what no longer holds: hashes, title, ranks."""
    return _changed(adapter, "compressed")


def of_expanded(adapter: Adapter) -> Described:
    """The input's, but for what no longer holds."""
    return _changed(adapter, "expanded")


def of_merged(ingredients: Sequence) -> Described:
    """What the inputs agree on; their names and weights, their trigger words joined, and their
    counts of tags added.
    """
    carried = [_carried(one.adapter) for one in ingredients]
    shared = {k: v for k, v in carried[0].items() if all(c.get(k) == v for c in carried[1:])}
    for key in (_TAGS, "ss_datasets"):
        shared.pop(key, None)
    listed = [_listed(one) for one in ingredients]
    note = {"format_version": NOTE_VERSION, "method": "merged", "merged_from": listed}
    shared, left_out = _bounded(shared)
    merged = (
        shared
        | _new()
        | {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.merged_from": ", ".join(f"{x['name']} × {x['weight']:g}" for x in listed),
            NOTE: _json(note),
        }
    )
    words = _words(one.get(_WORDS, "") for one in carried)
    merged = with_trigger_words(merged, ", ".join(words[:_MOST_WORDS]))
    if len(words) > _MOST_WORDS:
        left_out += (f"{len(words) - _MOST_WORDS} of the {len(words)} trigger words",)
    tables = [read_tags(one.adapter.metadata.get(_TAGS, ""), _joined(one)) for one in ingredients]
    if table := added(tables):
        merged[_TAGS], fewer = _fitted(table)
        left_out += fewer
    return Described(merged, left_out)


def with_effects(
    metadata: Mapping[str, str],
    effects: Mapping[str, Sequence[float]],
    absent: Mapping[str, Sequence[int]],
) -> dict[str, str]:
    """With the note of what each row does to the loss, and of the components that lost all rows.

    effects: component → those of its rows, falling; {} if not all are known. absent: component →
    weight shape.
    """
    note = json.loads(metadata[NOTE])
    gone = note.get("absent", {}) | {name: list(shape) for name, shape in absent.items()}
    found = dict(metadata) | {NOTE: _json(note | ({"absent": gone} if gone else {}))}
    return found | ({EFFECT_NOTE: effect_note(effects)} if effects else {})


def _listed(one) -> dict[str, object]:
    found = {
        "name": one.adapter.name,
        "weight": one.weight,
        "self_attention": one.self_attention,
        "cross_attention": one.cross_attention,
    }
    return found | ({"blocks": str(one.blocks)} if one.blocks.entries else {})


def _joined(one) -> bool:
    return read_rank_note(one.adapter.metadata)[0] == "merged"


def _words(phrases: Iterable[str]) -> list[str]:
    """Each word or phrase once, as it is first written; case does not matter to a text encoder.

    Longer ones than _LONGEST_WORD are no trigger words.
    """
    found: dict[str, str] = {}
    for phrase in phrases:
        for part in _SEPARATORS.split(phrase):
            word = " ".join(part.split())
            if 0 < len(word) <= _LONGEST_WORD:
                found.setdefault(word.casefold(), word)
    return list(found.values())


def _fitted(table: Table) -> tuple[str, tuple[str, ...]]:
    """The joined table as JSON of at most _MOST_TAGS; of a larger one the most frequent tags."""
    text = _json(table)
    if _size(text) <= _MOST_TAGS:
        return text, ()
    whole = tags = len(next(iter(table.values())))
    text = _json(shortened(table, tags))
    while (size := _size(text)) > _MOST_TAGS and tags:
        tags = min(tags - 1, int(tags * _MOST_TAGS / size))
        text = _json(shortened(table, tags))
    fewer = f"the {whole - tags} least frequent of {whole} tags" if tags < whole else ""
    return text, (fewer or "what folder a tag is of",)


def _changed(adapter: Adapter, what: str) -> Described:
    method, _ = read_rank_note(adapter.metadata)
    note = {"format_version": NOTE_VERSION, "method": method or what, what: adapter.name}
    if absent := read_absent(adapter.metadata):
        note["absent"] = {name: list(shape) for name, shape in absent.items()}
    carried, left_out = _bounded(_carried(adapter))
    return Described(carried | _new() | {NOTE: _json(note)}, left_out)


def _carried(adapter: Adapter) -> dict[str, str]:
    return {key: value for key, value in adapter.metadata.items() if key not in _STALE}


def _bounded(carried: dict[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Of the values as many as fit in _MOST bytes, the small ones first, in their order."""
    sizes = {key: _size(key) + _size(value) for key, value in carried.items()}
    total, kept = 0, set()
    for key in sorted(sizes, key=sizes.get):
        total += sizes[key]
        if total <= _MOST:
            kept.add(key)
    left_out = tuple(
        f"{shown(key)} ({size / 1e6:.1f} MB)" for key, size in sizes.items() if key not in kept
    )
    return {key: value for key, value in carried.items() if key in kept}, left_out


def _size(value: str) -> int:
    """Bytes in a header, escapes included."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def _new() -> dict[str, str]:
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic", "modelspec.date": date}


def _json(value: object) -> str:
    """Half of a surrogate pair, which is no text, keeps JSON's own escape."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
