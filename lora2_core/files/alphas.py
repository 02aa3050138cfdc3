"""The alpha of each component: ΔW = alpha / rank · up · down.

It is a tensor beside the factors, or else in PEFT's settings; an adapter without either has scale 1
by every reader's convention.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor, finfo, float32

from ..errors import LoRA2Error
from .header import shown
from .peft_settings import PeftSettings, peft_settings
from .stored import Stored

_LARGEST = finfo(float32).max  # loaders hold it in fp32


def alphas(state: Mapping[str, Tensor], listed: Iterable[Stored]) -> dict[str, float | None]:
    """Component → alpha, or None where the adapter says none."""
    settings = settings_of(state)
    return {stored.name: alpha_of(state, stored, settings) for stored in listed}


def settings_of(state: Mapping[str, Tensor]) -> PeftSettings | None:
    """What alpha_of needs of a whole adapter: a LoraState's or a LazyState's."""
    return peft_settings(getattr(state, "metadata", {}))


def alpha_of(
    state: Mapping[str, Tensor], stored: Stored, settings: PeftSettings | None
) -> float | None:
    """Of one component. Raises LoRA2Error, naming it, where alpha is not finite or PEFT's settings
    do not tell it."""
    if stored.alpha is not None:
        return _number(state, stored.alpha)
    return noted_alpha(stored, settings)


def noted_alpha(stored: Stored, settings: PeftSettings | None) -> float | None:
    """What PEFT's settings say of a component without a tensor alpha; None of another form of
    product, for which they say the scale (PeftSettings.scale)."""
    if settings is None or stored.kind:
        return None
    return settings.alpha(stored.name, stored.rank)


def _number(state: Mapping[str, Tensor], key: str) -> float:
    alpha = float(state[key])
    if not abs(alpha) <= _LARGEST:  # also true for NaN
        raise LoRA2Error(f"{shown(key)} is {alpha}; save the LoRA again with a finite alpha")
    return alpha
