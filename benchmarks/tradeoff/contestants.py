"""Who takes part: settings on top of one base, cuts of another's adapter, and two anchors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora2_core.config import TrainConfig

BASE = {"dtype": "fp32", "gradient_checkpointing": False}  # a small network on a CPU
NU_TERM = {"rank_term": "nu", "rank_rate": 10.0, "rank_hold": 0.0}  # [LoRA², eq. 12]
PAPER = {**NU_TERM, "init": "printed", "importance": "printed"}  # [3.3.1 and eq. 10]
REFERENCE = "lora2"  # the default, which all others are compared with
FIXED = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Cutting:
    """An adapter cut after training. parent: whose.

    like: whose bytes it gets; or energy: the share of Σσ² that it keeps; or half of its own bytes.
    how: `svd` or `prefix`, as in rank_tools. even: every component by the same share; otherwise
    the budget is spent over all components where it keeps the most energy.
    """

    parent: str
    like: str | None = None
    energy: float | None = None
    how: str = "svd"
    even: bool = False


@dataclass(frozen=True)
class Contestant:
    """settings: of TrainConfig.preset("small") that differ. rate_of: whose learning rate it takes.

    anchor: `base` or `renders`, measured and not trained.
    """

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    rate_of: str = REFERENCE
    cutting: Cutting | None = None
    anchor: str | None = None

    @property
    def trained(self) -> bool:
        return self.cutting is None and self.anchor is None

    def config(self, rate: float, steps: int, seed: int) -> TrainConfig:
        own = {**BASE, **self.settings}
        return TrainConfig.preset("small", learning_rate=rate, steps=steps, seed=seed, **own)


def _with_own_rate(name: str, settings: Mapping[str, object] | None = None) -> Contestant:
    return Contestant(name, settings or {}, rate_of=name)


_ALL = [
    Contestant("base", anchor="base"),
    Contestant("renders", anchor="renders"),
    Contestant("coded_renders", anchor="coded_renders"),  # after the autoencoder, the real ceiling
    *[_with_own_rate(f"lora_{r}", {"method": "lora", "r_init": r, "r_max": r}) for r in FIXED],
    _with_own_rate("lora2"),
    Contestant("lora_16_cut", cutting=Cutting("lora_16", like=REFERENCE)),
    Contestant("lora_64_cut", cutting=Cutting("lora_64", like=REFERENCE)),
    Contestant("lora_16_energy", cutting=Cutting("lora_16", energy=0.9)),  # ranks by the subject
    Contestant("lora2_half_svd", cutting=Cutting("lora2", how="svd", even=True)),
    Contestant("lora2_half_prefix", cutting=Cutting("lora2", how="prefix", even=True)),
    Contestant("lora2_no_rank_term", {"lambda_r": 0.0}),
    Contestant("lora2_no_entropy", {"lambda_e": 0.0}),
    Contestant("lora2_frozen", {"rank_freeze": 1.0}),  # Λ as it starts: what ν itself is worth
    Contestant("lora2_no_hold", {"rank_hold": 0.0}),
    Contestant("lora2_low", {"r_init": 4}),
    Contestant("lora2_high", {"r_init": 64, "r_max": 128}),
    Contestant("lora2_lower_rate", rate_of="lora_16"),  # forgets less at the cost of fidelity?
    # with the paper's rank term: ν itself has a price, and not the rows
    _with_own_rate("nu_term", NU_TERM),
    Contestant("nu_term_hold", {**NU_TERM, "rank_hold": 0.1}, rate_of="nu_term"),
    Contestant("nu_term_low", {**NU_TERM, "r_init": 4}, rate_of="nu_term"),
    Contestant("nu_term_high", {**NU_TERM, "r_init": 64, "r_max": 128}, rate_of="nu_term"),
    # as the paper prints it, and with one of the other two changes that the default makes
    _with_own_rate("paper", PAPER),
    _with_own_rate("paper_fan_in", {**PAPER, "init": "fan_in"}),
    _with_own_rate("paper_unit", {**PAPER, "importance": "unit_energy"}),
    _with_own_rate("paper_low", {**PAPER, "r_init": 4}),
    _with_own_rate("paper_high", {**PAPER, "r_init": 64, "r_max": 128}),
    Contestant("tuned"),  # the settings that `tune` found best
    _with_own_rate("ac_product", {"method": "ac_lora", "ac_mode": "product"}),
    _with_own_rate("ac_paper", {"method": "ac_lora", "ac_mode": "paper"}),
]
CONTESTANTS: dict[str, Contestant] = {found.name: found for found in _ALL}
