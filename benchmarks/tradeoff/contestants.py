"""Who takes part, and at which learning rates."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from lora2_core.config import TrainConfig

REFERENCE = "lora2"  # the default, which all others are compared with
FIXED = (1, 4, 16, 64)
WHOLE = "whole"
AS_SAVED = f"effect {TrainConfig().effect_share:g}"
ALL_ROWS = 1 - 1e-15  # share of the effect that leaves out nothing, but orders rows by it
_FINEST, _STEP = 1e-4, 1.8
_BASE = {  # a small network on a CPU
    "dtype": "fp32", "gradient_checkpointing": False, "effect_share": ALL_ROWS,
}  # fmt: skip
# what a run depends on, as its stamp has it: a setting that comes later, off by default, does not
# make earlier results void
_ALWAYS = ("method", "targets", "weight_decay", "max_grad_norm", "r_init", "optimizer",
           "lr_scheduler", "batch_size")  # fmt: skip
_OWN = {
    "lora": (),
    "ac_lora": ("rank_freeze", "ac_mode", "ac_period"),
    "lora2": (
        "r_max", "r_target", "lambda_r", "rank_term", "lambda_e", "regulariser", "quantile",
        "rank_rate", "rank_hold", "rank_freeze", "importance", "init", "growth", "entropy_queries",
        "start", "start_share",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Contestant:
    """guess: step of the rate grid that its search starts from. settings: of the preset that
    differ. library: the one of external.LIBRARIES that trains it, or None for our own. saved: the
    cut that its file is.
    """

    name: str
    guess: int
    preset: str = "small"
    settings: Mapping[str, object] = field(default_factory=dict)
    library: str | None = None
    saved: str = WHOLE

    def config(self, rate: float, steps: int, seed: int) -> TrainConfig:
        own = {**_BASE, **self.settings}
        return TrainConfig.preset(self.preset, learning_rate=rate, steps=steps, seed=seed, **own)

    def stamp(self) -> dict[str, object]:
        """The settings that its runs depend on, beside rate, steps and seed."""
        found = asdict(self.config(_FINEST, 100, 0))
        names = (*_ALWAYS, *_OWN[found["method"]])
        return {"library": self.library, **{name: found[name] for name in names}}


def rate(step: int) -> float:
    """Of the grid: 1e-4 · 1.8^step."""
    return float(f"{_FINEST * _STEP**step:.4g}")


def _fixed(rank: int, guess: int) -> Contestant:
    return Contestant(f"lora_{rank}", guess, settings=_plain(rank))


def _plain(rank: int) -> dict[str, object]:
    return {"method": "lora", "r_init": rank, "r_max": rank}


_NU = {  # Λ of one norm for every ν, which learns the rank at the price of its rows
    "importance": "unit_energy", "start": "even", "lambda_e": 1e-4, "r_init": 64, "r_max": 128,
}  # fmt: skip
_GUESSES = {1: 4, 4: 4, 16: 3, 64: 2}
_ALL = [
    Contestant("lora2", 3, preset="balanced", saved=AS_SAVED),
    Contestant("lora2_small", 4, saved=AS_SAVED),
    *[_fixed(rank, _GUESSES[rank]) for rank in FIXED],
    Contestant("learned_nu", 5, settings=_NU, saved=AS_SAVED),
    Contestant("paper", 1, preset="paper", settings={"r_init": 64, "r_max": 64}),
    Contestant("ac_product", 4, settings={"method": "ac_lora", "ac_mode": "product"}),
    Contestant("ac_paper", 2, settings={"method": "ac_lora", "ac_mode": "paper"}),
    Contestant("lokr", 4, settings=_plain(16), library="lokr"),
    Contestant("adalora", 6, settings=_plain(16), library="adalora"),
]
CONTESTANTS: dict[str, Contestant] = {found.name: found for found in _ALL}
