"""What each row of an adapter file is worth, as a note in its metadata [ours].

The rows of every component are then in the order of their effect on the loss (effect.measure), so
that a cut by effect takes the first ones and needs no model. Two bytes a row: a number falls by
2⁻¹⁄₁₀₂₄ from one code to the next, to 2⁻⁶⁴ of the largest one of the file.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

EFFECT_NOTE = "lora2_effect"
NOTED_BYTES = 3  # of a row in the note, at the most
_VERSION = 1
_STEP = 1024  # codes to a halving
_NOTHING = 0xFFFF
_LONGEST = 4_000_000  # characters; SDXL at rank 64 needs 0.15 million
_MOST_ROWS = 65536  # of one component


def effect_note(effects: Mapping[str, Sequence[float]]) -> str:
    """The note's text. effects: component as the file names it → those of its rows, falling, ≥ 0.

    A component that is not in the file has none.
    """
    largest = max((own[0] for own in effects.values() if len(own)), default=0.0)
    rows = {name: _encoded(own, largest) for name, own in effects.items() if len(own)}
    note = {"format_version": _VERSION, "largest": float(f"{largest:.6g}"), "components": rows}
    return json.dumps(note, separators=(",", ":"), ensure_ascii=False)


def read_effect_note(metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Component → effects of its rows, fp64, falling, of an untrusted note; {} if there is none, or
    one that is malformed, too long or of another version."""
    text = metadata.get(EFFECT_NOTE, "")
    if not text or len(text) > _LONGEST:
        return {}
    try:
        note = json.loads(text)
        if note["format_version"] != _VERSION:
            return {}
        largest = float(note["largest"])
        if not 0 <= largest < math.inf:
            return {}
        return {str(name): _decoded(own, largest) for name, own in note["components"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def noted_effects(metadata: Mapping[str, str], ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """read_effect_note, or {} where the note is not of these very rows; ranks: component → rank."""
    noted = read_effect_note(metadata)
    if any(len(noted.get(name, ())) != rank for name, rank in ranks.items()):
        return {}
    return {name: noted[name] for name in ranks}


def _encoded(effects: Sequence[float], largest: float) -> str:
    values = np.asarray(effects, dtype=np.float64)
    with np.errstate(divide="ignore"):
        codes = np.rint(-np.log2(values / largest) * _STEP) if largest > 0 else values + _NOTHING
    codes = np.minimum(codes, _NOTHING).astype("<u2")
    return base64.b64encode(codes.tobytes()).decode()


def _decoded(text: str, largest: float) -> Tensor:
    raw = base64.b64decode(text, validate=True)
    if len(raw) % 2 or len(raw) > 2 * _MOST_ROWS:
        raise ValueError("no codes of two bytes")
    codes = np.frombuffer(raw, dtype="<u2").astype(np.float64)
    values = np.where(codes < _NOTHING, largest * np.exp2(-codes / _STEP), 0.0)
    if (np.diff(values) > 0).any():
        raise ValueError("not in order")
    return torch.from_numpy(values)
