"""Metadata of adapters that were made from others."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from ..files.header import PEFT_NOTE
from ..files.metadata import NOTE, NOTE_VERSION, read_rank_note, with_trigger_words
from .adapters import Adapter

_LONGEST = 100_000  # characters of a stranger's value that are carried on
_STALE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash", "modelspec.title",
          "modelspec.thumbnail", "ss_output_name", "ss_network_dim", "ss_network_alpha",
          PEFT_NOTE, NOTE)  # fmt: skip


def of_compressed(adapter: Adapter) -> dict[str, str]:
    """The input's, but for what no longer holds: hashes, title, ranks."""
    return _carried(adapter) | _note(adapter, "compressed")


def of_expanded(adapter: Adapter) -> dict[str, str]:
    """The input's, but for what no longer holds."""
    return _carried(adapter) | _note(adapter, "expanded")


def of_merged(ingredients: Sequence) -> dict[str, str]:
    """What the inputs agree on; their names and weights, and their trigger words joined."""
    carried = [_carried(one.adapter) for one in ingredients]
    shared = {k: v for k, v in carried[0].items() if all(c.get(k) == v for c in carried[1:])}
    words = [c.get("modelspec.trigger_phrase", "") for c in carried]
    joined = list(dict.fromkeys(w.strip() for text in words for w in text.split(",") if w.strip()))
    shared = {k: v for k, v in shared.items() if k not in ("ss_tag_frequency", "ss_datasets")}
    listed = [
        {
            "name": one.adapter.name,
            "weight": one.weight,
            "self_attention": one.self_attention,
            "cross_attention": one.cross_attention,
        }
        for one in ingredients
    ]
    note = {"format_version": NOTE_VERSION, "method": "merged", "merged_from": listed}
    merged = (
        shared
        | _new()
        | {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.merged_from": ", ".join(f"{x['name']} × {x['weight']:g}" for x in listed),
            NOTE: _json(note),
        }
    )
    return _tags(with_trigger_words(merged, ", ".join(joined)), carried)


def _carried(adapter: Adapter) -> dict[str, str]:
    return {
        key: value
        for key, value in adapter.metadata.items()
        if key not in _STALE and len(value) <= _LONGEST
    }


def _note(adapter: Adapter, what: str) -> dict[str, str]:
    method, _ = read_rank_note(adapter.metadata)
    note = {"format_version": NOTE_VERSION, "method": method or what, what: adapter.name}
    return _new() | {NOTE: _json(note)}


def _new() -> dict[str, str]:
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic", "modelspec.date": date}


def _tags(merged: dict[str, str], carried: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """kohya's tag counts of the inputs, folder by folder, where they can be read."""
    folders: dict[str, dict] = {}
    for metadata in carried:
        try:
            found = json.loads(metadata.get("ss_tag_frequency", "{}"))
        except (ValueError, RecursionError):
            continue
        for folder, tags in found.items() if isinstance(found, dict) else ():
            if isinstance(tags, dict):
                folders.setdefault(folder, {}).update(tags)
    if folders:
        # the managers read the first folder only: it gets all the tags
        first = next(iter(folders))
        every = {tag: count for tags in folders.values() for tag, count in tags.items()}
        merged["ss_tag_frequency"] = _json(folders | {first: every})
    return merged


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
