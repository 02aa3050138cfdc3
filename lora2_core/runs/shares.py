"""Shares of a whole in a byte each: in equal steps of their logarithm, eight to a halving.

Off by 4 % at the most, down to a share of 2⁻³¹, which is drawn like nothing.
"""

import base64
import math
from collections.abc import Sequence

_STEP = 8  # codes to a halving
_NOTHING = 255


def coded(shares: Sequence[float]) -> str:
    """In base64; "" if all are nothing, or not numbers: then nothing is known."""
    codes = bytes(map(_code, shares))
    return base64.b64encode(codes).decode() if any(code < _NOTHING for code in codes) else ""


def _code(share: float) -> int:
    if not 0 < share < math.inf:
        return _NOTHING
    return min(max(0, round(-_STEP * math.log2(share))), _NOTHING)
