"""What is measured of a trained adapter: whole and cut, at full strength and at less."""

from statistics import fmean

from lora2_core.layers.applied import applied

from .contestants import WHOLE
from .cutting import THOUSANDS, Factors, cuts, parameters
from .lesson import Lesson, denoiser, general
from .training import Trained

STRENGTHS = (0.85,)  # beside 1, as a user trades fidelity for less forgetting
_AT_STRENGTHS = (WHOLE, *(f"effect {size}k" for size in THOUSANDS))


def losses(lesson: Lesson, factors: Factors, strength: float = 1.0) -> tuple[float, float]:
    """(fidelity, forgetting): denoising loss above the base's in per cent, the mean over what was
    learned, and on scenes without it; lower is better."""
    probes, (rest, rest_base) = lesson.probes, general()  # before, or the base would be changed
    with applied(denoiser(), factors, strength):
        own = fmean(probe.loss(denoiser()) / base - 1 for probe, base in probes)
        other = rest.loss(denoiser()) / rest_base - 1
    return round(100 * own, 3), round(100 * other, 3)


def measured(lesson: Lesson, found: Trained) -> dict[str, list[float]]:
    """What → [parameters, fidelity, forgetting]; "effect 31k ×0.85" is a cut at a strength."""
    told: dict[str, list[float]] = {}
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    for name, factors in cuts(found.factors, found.effects, found.parameters):
        size = found.parameters if name == WHOLE else parameters(factors)
        ranks = tuple(len(factors[key][0]) if key in factors else 0 for key in found.factors)
        if name.startswith("σ"):
            told[name] = [size, *losses(lesson, factors)]
            continue
        if ranks not in known:  # two shares may keep the same rows
            known[ranks] = losses(lesson, factors)
        told[name] = [size, *known[ranks]]
        if name in _AT_STRENGTHS:
            for strength in STRENGTHS:
                told[f"{name} ×{strength:g}"] = [size, *losses(lesson, factors, strength)]
    return told
