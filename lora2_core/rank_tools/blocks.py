"""Strengths for the blocks of a UNet, from a line of text."""

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field

from ..errors import LoRA2Error

_SIDES = {"input_blocks": "down", "middle_block": "middle", "output_blocks": "up"}
_BLOCK = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_(\d{1,6})_")
_ENTRY = re.compile(r"(down|middle|up)\s*(\d{0,6})\s*=\s*(\S+)")


@dataclass(frozen=True)
class BlockStrengths:
    """(side, block number or None for all of the side) → strength; 1 where nothing is said."""

    entries: dict[tuple[str, int | None], float] = field(default_factory=dict)

    def of(self, component: str) -> float:
        """The strength of a component, by its name in the file; a single block goes before."""
        match = _BLOCK.match(component)
        if match is None:
            return 1.0
        side = _SIDES[match[1]]
        whole = self.entries.get((side, None), 1.0)
        return self.entries.get((side, int(match[2])), whole)

    def __str__(self) -> str:
        """As parse_blocks reads it."""
        return ", ".join(
            f"{side}{'' if number is None else number}={strength:.12g}"
            for (side, number), strength in self.entries.items()
        )


def parse_blocks(text: str) -> BlockStrengths:
    """`down=0.5, up4=0, middle=1`: sides, or blocks of a side by their number in the checkpoint.

    Raises LoRA2Error, naming the entry that cannot be read.
    """
    entries: dict[tuple[str, int | None], float] = {}
    for entry in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
        match = _ENTRY.fullmatch(entry)
        strength = math.nan
        with suppress(ValueError):
            strength = float(match[3]) if match else math.nan
        if match is None or not math.isfinite(strength):
            raise LoRA2Error(
                f"blocks has {entry!r}; write down=0.5, middle=1 or up4=0, separated by commas"
            )
        entries[match[1], int(match[2]) if match[2] else None] = strength
    return BlockStrengths(entries)
