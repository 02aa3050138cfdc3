"""Pillow's pictures of any mode as RGB."""

import io

from PIL import Image, ImageCms

from ..errors import LoRA2Error
from . import deep_grey

_BITS, _COMPRESSION, _COLOURS, _PLANES, _SIGNED = 258, 259, 320, 284, 339  # tags of a TIFF


def to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """The picture in RGB of 8 bits, on white where it is transparent; what is to be said of it.

    Numbers of RGB and grey stay as they are, whatever profile goes with them; CMYK becomes sRGB by
    its profile. Raises LoRA2Error if the numbers do not show what colour they are.
    """
    _check_tiff(image)
    if deep_grey.is_deep(image):
        return Image.fromarray(deep_grey.to_8_bits(image)).convert("RGB"), None
    if image.mode == "CMYK":
        return _from_cmyk(image)
    if image.mode in ("La", "RGBa"):  # colours times alpha
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        return _on_white(image.convert("RGBA")), None
    return image.convert("RGB"), None


def _on_white(image: Image.Image) -> Image.Image:
    """The colour under what is transparent never shows."""
    white = Image.new("RGB", image.size, "white")
    white.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return white


def _from_cmyk(image: Image.Image) -> tuple[Image.Image, str | None]:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB"), None
    try:
        inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, inks, srgb, outputMode="RGB"), None
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        # also where Pillow was built without the library for it
        return image.convert("RGB"), "its CMYK profile cannot be used; converted without"


def _check_tiff(image: Image.Image) -> None:
    """Raises LoRA2Error for what Pillow reads wrong without a word."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return
    bits = max(_all(tags.get(_BITS, 1)))
    if bits <= 16 and 2 in _all(tags.get(_SIGNED, 1)):
        raise LoRA2Error("holds signed numbers, which have no black; save it as PNG")
    if bits > 8 and tags.get(_PLANES, 1) == 2 and tags.get(_COMPRESSION, 1) == 1:
        raise LoRA2Error("holds its colours in planes of 16 bits; save it as PNG")
    if image.mode == "P" and 0 < max(tags.get(_COLOURS, (0,))) < 256:
        raise LoRA2Error("has a palette of 8 bits in place of 16; save it as PNG")


def _all(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)
