"""The alphas of an adapter that keeps them in PEFT's settings and not in tensors.

diffusers writes them into the metadata, under `lora_adapter_metadata`: each key with the part's
name before it (`unet.lora_alpha`) from a pipeline, without one (`lora_alpha`) from
`save_lora_adapter`. PEFT's own folders have them in a file (peft_folder). Sources: PEFT's
`get_pattern_key` and `LoraLayer.update_layer`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache

from ..errors import LoRA2Error
from .header import PEFT_NOTE, shown

_LONGEST = 4_000_000  # characters
_DEEPEST = 64  # parts of a module's name that are compared with unanchored patterns
_WRAPPED = "base_model.model."
_FIELDS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "peft_type")
_PARTS = ("unet.", "transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3.",
          "diffusion_model.")  # fmt: skip
_NAME = re.compile(r"(\^?)(\w+(?:[.-]\w+)*)\$?")  # a pattern that is a module's name or its end
_OTHER_BASE = ("pissa", "olora", "corda", "lora_ga")  # these change the weights beneath, too


class Patterns:
    """PEFT's alpha_pattern or rank_pattern: the first entry that matches a module counts.

    An entry matches as the regular expression `(.*\\.)?(entry)$` would, in which a dot is also an
    underscore. Only names, also anchored by ^ and with escaped dots, are compared: an expression of
    a stranger's could run for ever.
    """

    def __init__(self, entries: Mapping[str, object]):
        self._whole: dict[str, tuple[int, object]] = {}
        self._ends: dict[str, tuple[int, object]] = {}
        self._unknown: tuple[int, str] | None = None
        for index, (entry, value) in enumerate(entries.items()):
            match = _NAME.fullmatch(entry.replace("\\.", "."))
            if match is not None:
                names = self._whole if match[1] else self._ends
                names.setdefault(_flat(match[2]), (index, value))
            elif self._unknown is None:
                self._unknown = index, entry

    def of(self, module: str, otherwise: object) -> object:
        """The value for a module; raises ValueError, naming the entry, where it cannot be told."""
        steps = module.split(".")[-_DEEPEST:]
        found = [self._ends.get(_flat(".".join(steps[i:]))) for i in range(len(steps))]
        found.append(self._whole.get(_flat(module)))
        known = [one for one in found if one is not None]
        index, value = min(known, key=lambda one: one[0], default=(None, otherwise))
        if self._unknown is not None and (index is None or self._unknown[0] < index):
            raise ValueError(
                f"its settings have the regular expression {shown(self._unknown[1])}, and only "
                "names of layers are understood"
            )
        return value


class PeftSettings:
    """Of one adapter. Untrusted: whatever does not give an alpha for certain is an error, because
    any other scale would be silently wrong."""

    def __init__(self, text: str):
        self._parts: dict[str, dict[str, object]] = {}
        self._fault = ""
        try:
            found = json.loads(text) if len(text) <= _LONGEST else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self._fault = "its settings are no JSON object"
            return
        for key, value in found.items():
            part, _, name = key.rpartition(".")
            self._parts.setdefault(part, {})[name] = value
        self._parts = {
            part: own for part, own in self._parts.items() if any(f in own for f in _FIELDS)
        }

    @cached_property
    def _patterns(self) -> dict[tuple[str, str], Patterns]:
        found = {}
        for part, own in self._parts.items():
            for name in ("alpha_pattern", "rank_pattern"):
                entries = own.get(name) or {}
                if not isinstance(entries, dict):
                    raise ValueError(f"{name} in its settings is {shown(entries)}")
                found[part, name] = Patterns(entries)
        return found

    def alpha(self, name: str, rank: int) -> float | None:
        """alpha of component `name` ("unet.mid_block…", "base_model.model.…"), None if the settings
        say nothing of its part.

        A rank-stabilised adapter scales by lora_alpha/√rank, which is alpha/rank for alpha =
        lora_alpha·√rank. Raises LoRA2Error if it cannot be told.
        """
        with _named(name):
            return self._alpha(name, rank)

    def scale(self, name: str) -> float | None:
        """alpha/r of a LoHa's or LoKr's component, whatever the rank of what it multiplies out to;
        None if the settings say nothing of its part. Raises LoRA2Error if it cannot be told.
        """
        with _named(name):
            part, module = self._found(name)
            if part is None:
                return None
            own = self._parts[part]
            rank = self._patterns[part, "rank_pattern"].of(module, own.get("r"))
            if type(rank) is not int or rank < 1:
                raise ValueError(f"r in its settings is {shown(rank)}")
            alpha = self._patterns[part, "alpha_pattern"].of(module, own.get("alpha"))
            return _number("alpha", alpha) / rank

    def _alpha(self, name: str, rank: int) -> float | None:
        part, module = self._found(name)
        if part is None:
            return None
        own = self._parts[part]
        self._check(own)
        noted = self._rank(part, module)
        if noted not in (None, rank):
            raise ValueError(f"its settings are for rank {shown(noted)}, but it has rank {rank}")
        alpha = self._patterns[part, "alpha_pattern"].of(module, own.get("lora_alpha"))
        alpha = _number("lora_alpha", alpha)
        return alpha * math.sqrt(rank) if own.get("use_rslora") else alpha

    def _rank(self, part: str, module: str) -> object:
        """What the settings say; None where they do not, since the factors themselves do."""
        with suppress(ValueError):
            return self._patterns[part, "rank_pattern"].of(module, self._parts[part].get("r"))
        return None

    def _check(self, own: Mapping[str, object]) -> None:
        if own.get("use_rslora") not in (None, False, True):
            raise ValueError(f"use_rslora in its settings is {shown(own['use_rslora'])}")
        start = own.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_OTHER_BASE):
            raise ValueError(
                f"it was started with {shown(start)}, which changes the weights it is added to; "
                "convert it to a plain LoRA with PEFT"
            )

    def _found(self, name: str) -> tuple[str | None, str]:
        """(part of the settings, None if they have none for it; module as PEFT knew it)."""
        if self._fault:
            raise ValueError(self._fault)
        part = _unwrapped(name).partition(".")[0]
        part = part if part in self._parts else ""
        return part if part in self._parts else None, _module(name)


def peft_settings(metadata: Mapping[str, str]) -> PeftSettings | None:
    """An adapter's settings, None if it has none."""
    text = metadata.get(PEFT_NOTE, "")
    return _read(text) if text.strip() else None


@contextmanager
def _named(name: str) -> Iterator[None]:
    """A ValueError as a LoRA2Error that names the component."""
    try:
        yield
    except ValueError as error:
        raise LoRA2Error(
            f"the alpha of {shown(name)} cannot be told: {error}; save the LoRA again with an "
            "alpha for every layer, as kohya's format has it"
        ) from None


def _number(name: str, value: object) -> float:
    if value is None:
        raise ValueError(f"its settings have no {name}")
    if type(value) not in (int, float) or not abs(value) < 1e30:  # also false for NaN
        raise ValueError(f"{name} in its settings is {shown(value)}")
    return float(value)


@lru_cache(maxsize=4)
def _read(text: str) -> PeftSettings:
    return PeftSettings(text)


def _module(name: str) -> str:
    inner = _unwrapped(name)
    while inner.startswith(_PARTS):
        inner = _unwrapped(inner.partition(".")[2])
    return inner


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPED):
        name = name.removeprefix(_WRAPPED)
    return name
