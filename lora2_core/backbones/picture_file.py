"""One picture file, read right or not at all."""

import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import LoRA2Error
from . import file_kind, png_chunks
from .pixels import to_rgb

# of those that Pillow knows, what can be told by its first bytes and runs no other program; HEIF
# and JXL are there if a plug-in has told Pillow of them
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM", "HEIF", "JXL")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(file: Path) -> tuple[Image.Image, list[str]]:
    """An upright RGB picture of 8 bits, whatever the file's ending says; what is to be said of it.

    Raises LoRA2Error, with the reason and the way out, if it cannot be read, or not surely right.
    """
    if file.exists() and not file.is_file():
        raise LoRA2Error("is no file")  # a pipe would be waited for
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LoRA2Error(f"cannot be read: {error.strerror}") from None
    if not data:
        raise LoRA2Error("is empty (0 bytes); copy it again")
    try:
        with warnings.catch_warnings():
            # of metadata that are not used, and of sizes below the limit
            warnings.simplefilter("ignore")
            return _read(data)
    except LoRA2Error:
        raise
    except UnidentifiedImageError:
        raise LoRA2Error(file_kind.why_unknown(data)) from None
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS
        raise LoRA2Error(f"has more than {most} pixels; make it smaller") from None
    except Exception as error:  # decoders meet broken files with errors of every kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoRA2Error(f"cannot be read ({reason}); save it anew as PNG or JPEG") from None


def _read(data: bytes) -> tuple[Image.Image, list[str]]:
    is_png = data.startswith(png_chunks.SIGNATURE)
    if is_png:
        data = png_chunks.without_texts(data)
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        box = image.tile[0][1] if image.format == "GIF" and image.tile else None
        image.load()
        if is_png:
            _check_png(image, data)
        picture, said = to_rgb(image)
        if box is not None and box != (0, 0, *image.size):
            picture = _only(picture, box)
        turn = _turn(image)
        remarks = [said, _further(image)]
    if turn is not None:
        picture = picture.transpose(turn)
    return picture, [remark for remark in remarks if remark]


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _check_png(image: Image.Image, data: bytes) -> None:
    """A transparent colour is written in the file's depth, and Pillow looks for it in 8 bits."""
    if not png_chunks.has_all_rows(data):
        raise LoRA2Error("ends before its last row; copy it again")
    depth, key = png_chunks.depth(data), image.info.get("transparency")
    if key is None or image.mode not in ("L", "RGB"):
        return
    if depth == 16:
        raise LoRA2Error("has a transparent colour of 16 bits; save it with an alpha channel")
    if image.mode == "L":
        white = 2**depth - 1
        image.info["transparency"] = (key & white) * (255 // white)


def _only(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A GIF's first frame may cover a part, and the rest is transparent."""
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture.crop(box), box)
    return white


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What EXIF says of a camera that was held otherwise."""
    if image.format == "TIFF":
        return None  # is turned as it is loaded, and older versions of Pillow still say how
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever a broken EXIF does to its reader: it holds no pixel
        return None


def _further(image: Image.Image) -> str | None:
    """Of frames and pages. A photograph's smaller versions and depth maps are none (MPO)."""
    if image.format == "MPO":
        return None
    try:
        count = getattr(image, "n_frames", 1)
    except Exception:  # beyond the first, a file may be as broken as it likes
        return "what follows its first picture is broken; the first is taken"
    return f"holds {count} pictures; the first is taken" if count > 1 else None
