"""The strings that an adapter file carries beside its tensors.

Sources: kohya sd-scripts (`ss_…`), Stability AI's ModelSpec (`modelspec.…`), and one key of this
project, `lora2`. What is not known is left out.
"""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from .effect_note import EFFECT_NOTE, effect_note
from .module_names import kohya_name

NOTE = "lora2"
NOTE_VERSION = 1
_LONGEST_NOTE = 4_000_000  # characters; SDXL with every layer adapted needs 0.3 million
_MOST_ABSENT = 20_000
_PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}  # kohya's words


def training_metadata(
    *,
    method: str,
    settings: Mapping[str, object],
    ranks: Mapping[str, tuple[float | None, int]],
    steps: int | None = None,
    base_model: str | None = None,
    base_model_hash: str | None = None,
    trigger_words: str = "",
    title: str | None = None,
    optimizer: str | None = None,
    train_images: int | None = None,
    resolution: tuple[int, int] | None = None,
    prediction_type: str | None = None,
    comment: str = "",
    usage_hint: str = "",
    started_at: float | None = None,
    finished_at: float | None = None,
    absent: Mapping[str, Sequence[int]] | None = None,
    effects: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, str]:
    """Metadata of a freshly trained SDXL-family adapter; every value is a string.

    settings: the training configuration (learning_rate, steps, seed, dtype, quantile and targets
    are picked out; all of it goes into ss_network_args). ranks: module name, dots as in the live
    model → (ν or None, D). steps: optimiser steps applied, if the run ended early. resolution:
    (width, height) in pixels. prediction_type: "epsilon" or "v". started_at, finished_at: seconds
    since the epoch; finished_at is now if not given. title may stay open: write() then takes the
    file's name. The hashes are added by write() too. absent: module name → weight shape of
    components of rank 0, which have no tensors. effects: module name → those of its rows, falling.
    """
    finished_at = time.time() if finished_at is None else finished_at
    found: dict[str, object] = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "Dynamic",
        "ss_network_alpha": "Dynamic",
        "ss_v2": False,
        "ss_network_args": _json({"method": method, **settings}),
        "ss_output_name": title,
        "ss_sd_model_name": base_model,
        "ss_sd_model_hash": base_model_hash,
        "ss_learning_rate": settings.get("learning_rate"),
        "ss_optimizer": optimizer,
        "ss_steps": settings.get("steps") if steps is None else steps,
        "ss_max_train_steps": settings.get("steps"),
        "ss_seed": settings.get("seed"),
        "ss_mixed_precision": _PRECISIONS.get(str(settings.get("dtype"))),
        "ss_num_train_images": train_images,
        "ss_resolution": resolution and f"({resolution[0]}, {resolution[1]})",
        "ss_training_started_at": started_at,
        "ss_training_finished_at": finished_at,
        "ss_training_comment": comment,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.resolution": resolution and f"{resolution[0]}x{resolution[1]}",
        "modelspec.date": datetime.fromtimestamp(int(finished_at), timezone.utc).isoformat(),
        "modelspec.prediction_type": prediction_type,
        "modelspec.usage_hint": usage_hint,
        NOTE: rank_note(
            method,
            ranks,
            q=settings.get("quantile"),
            targets=settings.get("targets"),
            absent=absent,
        ),
        EFFECT_NOTE: effects and effect_note({kohya_name(k): own for k, own in effects.items()}),
    }
    known = {key: str(value) for key, value in found.items() if value not in (None, "", {})}
    return with_trigger_words(known, trigger_words)


def with_trigger_words(metadata: Mapping[str, str], words: str) -> dict[str, str]:
    """The metadata with trigger words (separated by commas); unchanged if there are none.

    They go where the managers look: ModelSpec's trigger phrase, and kohya's tag counts, of which
    the managers read the first folder.
    """
    tags = [tag for tag in (" ".join(part.split()) for part in words.split(",")) if tag]
    if not tags:
        return dict(metadata)
    images = metadata.get("ss_num_train_images", "1")
    count = int(images) if images.isdecimal() and len(images) < 10 else 1
    folders = {tags[0]: dict.fromkeys(tags, count)}
    return dict(metadata) | {
        "modelspec.trigger_phrase": ", ".join(tags),
        "ss_tag_frequency": _json(folders),
        "ss_datasets": _json([{"tag_frequency": folders}]),
    }


def rank_note(
    method: str,
    ranks: Mapping[str, tuple[float | None, int]],
    *,
    q: object = None,
    targets: object = None,
    absent: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """The `lora2` value: JSON with {component as named in the file: [ν or null, D]}, and the shapes
    [m, n…] of those that came to rank 0 (`absent`)."""
    components = {
        kohya_name(name): [float(f"{nu:.9g}") if _is_positive(nu) else None, int(rank)]
        for name, (nu, rank) in ranks.items()
    }
    note = {
        "format_version": NOTE_VERSION,
        "method": method,
        "q": q,
        "targets": targets,
        "components": components,
        "absent": absent and {kohya_name(name): list(shape) for name, shape in absent.items()},
    }
    return _json({key: value for key, value in note.items() if value})


def read_rank_note(
    metadata: Mapping[str, str],
) -> tuple[str | None, dict[str, tuple[float | None, int]]]:
    """(method, {component: (ν or None, D)}) of an untrusted `lora2` value.

    Never raises: whatever is malformed, too long or of another version is left out.
    """
    note = _untrusted(metadata, NOTE)
    if note.get("format_version") != NOTE_VERSION:
        return None, {}
    method, listed = note.get("method"), note.get("components")
    ranks = {}
    for name, pair in listed.items() if isinstance(listed, dict) else ():
        if isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int:
            nu = pair[0] if _is_positive(pair[0]) else None
            ranks[name] = (nu, pair[1])
    return method if isinstance(method, str) and 0 < len(method) <= 64 else None, ranks


def read_absent(metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Component of rank 0 → weight shape, of an untrusted `lora2` value; as read_rank_note."""
    note = _untrusted(metadata, NOTE)
    listed = note.get("absent") if note.get("format_version") == NOTE_VERSION else None
    if not isinstance(listed, dict) or len(listed) > _MOST_ABSENT:
        return {}
    return {name: tuple(shape) for name, shape in listed.items() if _is_shape(shape)}


def _is_shape(value: object) -> bool:
    return (
        isinstance(value, list)
        and 2 <= len(value) <= 5
        and all(type(size) is int and 0 < size < 2**31 for size in value)
    )


def _untrusted(metadata: Mapping[str, str], key: str) -> dict:
    text = metadata.get(key, "")
    if not text or len(text) > _LONGEST_NOTE:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # a broken note must not keep the tensors from loading
        return {}
    return found if isinstance(found, dict) else {}


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < 1e30  # false for NaN


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
