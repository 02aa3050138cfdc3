"""Picture files as bytes, where Pillow does not write such."""

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

BLACK_IS_ZERO, WHITE_IS_ZERO, RGB, PALETTE, CMYK, LAB = 1, 0, 2, 3, 5, 8
GREY, COLOUR, INDEXED, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6


def chunk(kind: bytes, body: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    pixels: np.ndarray, colour: int, depth: int, *more: bytes, after: Sequence[bytes] = ()
) -> bytes:
    """pixels: [h, w] or [h, w, channels]. more: chunks before the pixels; after: behind them."""
    height, width = pixels.shape[:2]
    flat = pixels.reshape(height, -1)
    if depth < 8:
        each = 8 // depth
        flat = np.pad(flat, ((0, 0), (0, -width % each))).reshape(height, -1, each)
        shifts = depth * np.arange(each - 1, -1, -1)
        packed = (flat.astype(int) << shifts).sum(-1).astype(np.uint8)
    else:
        packed = flat.astype(">u2" if depth == 16 else np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    return png_of(width, height, colour, depth, zlib.compress(rows), *more, after=after)


def png_of(
    width: int, height: int, colour: int, depth: int, packed: bytes, *more: bytes,
    after: Sequence[bytes] = (),
) -> bytes:  # fmt: skip
    """packed: what the pixels' chunk holds."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", packed), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(
    pixels: np.ndarray, photometric: int | None, *, bits: int | None = None, planes: bool = False,
    extra: int | None = None, more: Mapping[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:  # fmt: skip
    """pixels: [h, w] or [h, w, channels]; bits: where they are packed in uint8 already, of which
    w is given in `more` then. more: tag → type and values.
    """
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    size = bits or 8 * pixels.itemsize
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    parts = [pixels.tobytes()]
    if planes:
        parts = [pixels[..., channel].tobytes() for channel in range(channels)]
    tags = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [size] * channels), 259: (3, [1]),
        273: (4, [0] * len(parts)), 277: (3, [channels]), 278: (4, [height]),
        279: (4, [len(part) for part in parts]), 284: (3, [2 if planes else 1]),
        339: (3, [kind] * channels),
    }  # fmt: skip
    if photometric is not None:
        tags[262] = (3, [photometric])
    if extra is not None:
        tags[338] = (3, [extra])
    tags |= more or {}
    sizes = {number: {3: 2, 4: 4}[kind] * len(values) for number, (kind, values) in tags.items()}
    start = 8 + 2 + 12 * len(tags) + 4
    data = start + sum(size for size in sizes.values() if size > 4)
    tags[273] = (4, list(np.cumsum([data, *(len(part) for part in parts[:-1])])))
    entries, values = b"", b""
    for number in sorted(tags):
        kind, numbers = tags[number]
        held = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        entries += struct.pack("<HHI", number, kind, len(numbers))
        if len(held) > 4:
            entries += struct.pack("<I", start + len(values))
            values += held
        else:
            entries += held.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + b"\0\0\0\0" + values + b"".join(parts)


def cmyk_profile(lab: np.ndarray) -> bytes:
    """An ICC profile of a table. lab: uint8 [2, 2, 2, 2, 3], L, a, b by ink or none of C, M, Y, K
    [ICC.1:2001, lut8Type].
    """
    same = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1\0\0\0\0\x04\x03\x02\0" + matrix + same * 4 + lab.tobytes() + same * 3
    header = struct.pack(
        ">I4sI4s4s4s12x4s4x4x4x4x8xI3i", 128 + 4 + 12 + len(table), b"test", 0x02400000, b"prtr",
        b"CMYK", b"Lab ", b"acsp", 0, 63190, 65536, 54061,
    )  # fmt: skip
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    return header.ljust(128, b"\0") + tags + table
