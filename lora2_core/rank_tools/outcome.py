"""What a rank tool made, and what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..files.adapter_file import LoraState
from ..files.stored import Stored

KOHYA = ("lora_unet_", "lora_te")


@dataclass(frozen=True)
class Row:
    """One component. energy: Σσ², or what it does to the loss. retained: share of that which is
    left, 1 if nothing was cut."""

    name: str
    before: int
    after: int
    energy: float
    retained: float


@dataclass(frozen=True)
class Outcome:
    """state: the new adapter. rows: one a component, in the file's order. left_out: what of the
    inputs' metadata was too large to be carried, in words. beside: in words, what else it carries,
    and what it left out. measure: what the shares are of, "energy" or "effect"."""

    state: LoraState
    rows: list[Row]
    left_out: tuple[str, ...] = ()
    beside: str = ""
    measure: str = "energy"

    @property
    def retained(self) -> float:
        """Share of the energy of all components together that is left."""
        whole = sum(row.energy for row in self.rows)
        return sum(row.energy * row.retained for row in self.rows) / whole if whole else 1.0

    def report(self) -> dict:
        """For JSON: totals, and rank before and after and retained energy of every component."""
        return {
            "retained": self.retained,
            "rank_before": sum(row.before for row in self.rows) / len(self.rows),
            "rank_after": sum(row.after for row in self.rows) / len(self.rows),
            "components": [
                {
                    "name": row.name,
                    "before": row.before,
                    "after": row.after,
                    "retained": row.retained,
                }
                for row in self.rows
            ],
        }

    @property
    def kept(self) -> str:
        """In words, what the cut kept of the components."""
        before = sum(row.before for row in self.rows) / len(self.rows)
        after = sum(row.after for row in self.rows) / len(self.rows)
        return (
            f"{len(self.rows)} components, mean rank {before:.1f} → {after:.1f}, "
            f"{100 * self.retained:.2f} % of the {self.measure} kept{noted(self.left_out)}"
        )

    def __str__(self) -> str:
        return f"{self.kept}{self.beside}"


def noted(left_out: Sequence[str]) -> str:
    """A line on what of the metadata is not in the new file; "" if all of it is."""
    return f"\nnote: too large to be carried, left out: {', '.join(left_out)}" if left_out else ""


def put(state: LoraState, name: str, stored: Stored, up: Tensor, down: Tensor) -> None:
    """Adds a component of scale 1: up [m, k], down [k, n], in the layer's own shapes.

    Under kohya's names where `name` is one; else under those that `stored` had, without an alpha,
    which other styles do not know.
    """
    rank, shape = down.shape[0], stored.shape
    keys = stored.down, stored.up
    if name.startswith(KOHYA):
        keys = f"{name}.lora_down.weight", f"{name}.lora_up.weight"
        state[f"{name}.alpha"] = torch.tensor(float(rank))
    state[keys[0]] = down.reshape(rank, *shape[1:]).contiguous()
    state[keys[1]] = up.reshape(shape[0], rank, *(1 for _ in shape[2:])).contiguous()
