"""Why a file is not read as a picture, told from its first bytes."""

_WAY_OUT = "save it as PNG or JPEG"
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_STARTS = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"8BPS", "Photoshop's PSD"),
    (b"%!PS", "PostScript"),
    (b"%PDF", "PDF"),
)


def why_unknown(data: bytes) -> str:
    """The reason, with the way out, for a file that no decoder takes."""
    if data.startswith(b"version https://git-lfs"):
        return "stands for a picture that was not fetched; run `git lfs pull`"
    kind = _kind(data)
    if kind is not None:
        return f"is {kind} of a kind that is not read here, or broken; {_WAY_OUT}"
    if data.lstrip()[:1] == b"<":
        return f"is text (a web page, or SVG) and no picture of pixels; {_WAY_OUT}"
    return f"is no picture, or of a kind that is not read here; {_WAY_OUT}"


def _kind(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "HEIC" if brand in _HEIC else "AVIF" if brand in _AVIF else "a film"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return next((kind for start, kind in _STARTS if data.startswith(start)), None)
