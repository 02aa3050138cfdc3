"""Grey of more than 8 bits, as 8 bits, where the numbers show what white is."""

import numpy as np
from PIL import Image

from ..errors import LoRA2Error

_16_BITS = 2**16 - 1
_BITS, _WHITE_AT, _SIGNED = 258, 262, 339  # tags of a TIFF
_ROWS = 256  # that are computed at a time
_WAY_OUT = "save it with 8 or 16 bits"


def is_deep(image: Image.Image) -> bool:
    """Whether it holds such numbers."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def to_8_bits(image: Image.Image) -> np.ndarray:
    """uint8 [h, w]; white is the largest number of the depth, and what is transparent is white.

    Raises LoRA2Error if the numbers do not show their range: those of 16 bits and less have it by
    their depth, all others must come near to its end.
    """
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "F":
        if _WHITE_AT in tags and tags[_WHITE_AT] == 0:
            raise LoRA2Error(f"holds fractions of which 0 is white; {_WAY_OUT}")
        return _of_fractions(values)
    if image.mode == "I":
        grey = _of_integers(values, image.format, tags)
    else:
        white = 2 ** _first(tags.get(_BITS, 16)) - 1
        grey = _scaled(values, white)
        if image.format == "TIFF":
            grey = _turned(grey, tags)
    key = image.info.get("transparency")
    return grey if key is None else np.where(values == key, np.uint8(255), grey)


def _turned(grey: np.ndarray, tags) -> np.ndarray:
    """A TIFF may have white at 0, which Pillow heeds in 8 bits alone."""
    if _WHITE_AT not in tags:
        raise LoRA2Error(f"does not say whether 0 is black or white; {_WAY_OUT}, as PNG")
    return 255 - grey if tags[_WHITE_AT] == 0 else grey


def _of_integers(values: np.ndarray, kind: str | None, tags) -> np.ndarray:
    """values: int32 [h, w], as Pillow holds them."""
    if kind in ("PNG", "PPM"):
        return _scaled(values, _16_BITS)  # older versions of Pillow, and maps of any depth
    signed = _first(tags.get(_SIGNED, 1)) == 2
    if not signed:
        values = values.view(np.uint32)
    low, high = int(values.min()), int(values.max())
    white = next(top for top in (2**8 - 1, _16_BITS, 2**31 - 1, 2**32 - 1) if high <= top)
    if white > _16_BITS:
        white = 2**31 - 1 if signed else 2**32 - 1
    if low < 0 or _nearly_black(high, white):
        raise LoRA2Error(
            f"holds integers of {_first(tags.get(_BITS, 32))} bits from {low} to {high}, which do "
            f"not show what is white; {_WAY_OUT}"
        )
    return _scaled(values, white)


def _of_fractions(values: np.ndarray) -> np.ndarray:
    """values: float [h, w], of 0 to 1 or of 0 to 255."""
    if not np.isfinite(values).all():
        raise LoRA2Error(f"holds NaN or infinity; {_WAY_OUT}")
    low, high = float(values.min()), float(values.max())
    half = 0.5 / 255  # what is beyond by less than that, as after scaling, is rounded away
    if low >= -half and high < 1 + half:
        return _scaled(values, 1)
    in_8_bits = low >= -0.5 and high < 255.5 and not _nearly_black(high, 255)
    # brighter than 1 are also the lights of a picture of 0 to 1, but never most of it
    if in_8_bits and ((values == np.rint(values)).all() or (values > 1).mean() > 0.5):
        return _scaled(values, 255)
    raise LoRA2Error(
        f"holds fractions from {low:.4g} to {high:.4g}, which do not show what is white; {_WAY_OUT}"
    )


def _nearly_black(high: float, white: int) -> bool:
    """Whether all of a picture is below a quarter of white, so that another white is likelier."""
    return 0 < high < white // 4


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
    """255 / white of each, rounded."""
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        exact = values[rows].astype(np.float64) * (255 / white)
        grey[rows] = np.rint(exact).clip(0, 255)
    return grey


def _first(value) -> int:
    """Tags of one number come as such, or as a tuple of it."""
    return value[0] if isinstance(value, tuple) else value
