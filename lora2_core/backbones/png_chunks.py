"""A PNG file as its chunks: texts are left out, and rows are counted."""

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = 8 + 8 + 13  # bytes up to the end of IHDR's data
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip  # x, y, and the steps in x and y, of each pass
_TURNS = (b"XML:com.adobe.xmp", b"Raw profile type exif")  # texts that may say which way is up
_LONGEST = 2**20 - 1  # bytes of a text; Pillow refuses the file for longer ones
_PIECE = 2**20  # bytes that are unpacked at a time


def without_texts(data: bytes) -> bytes:
    """The file without texts and colour profile, of which no pixel depends on one.

    What may turn the picture stays, unless it is longer than any that does. A file that is broken
    stays as broken as it is.
    """
    whole = memoryview(data)
    parts = [SIGNATURE]
    for kind, start, end in _chunks(data):
        if _stays(kind, whole[start + 8 : end - 4]):
            parts.append(whole[start:end])
    return b"".join(parts)


def depth(data: bytes) -> int:
    """Bits of a sample."""
    return data[24]


def has_all_rows(data: bytes) -> bool:
    """Whether the pixels do not end early: Pillow takes what a short stream lacks for black."""
    if len(data) < _HEADER:
        return False
    width, height, bits, colour, _, _, laced = struct.unpack(">IIBBBBB", data[16:_HEADER])
    passes = _passes(width, height) if laced else [(width, height)]
    bits *= _CHANNELS.get(colour, 1)
    wanted = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in passes if columns)
    whole = memoryview(data)
    pieces = (whole[s + 8 : e - 4] for kind, s, e in _chunks(data) if kind == b"IDAT")
    return _unpacks_to(pieces, wanted)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each; of kind b"" the rest of a file that is broken there."""
    start = len(SIGNATURE)
    while start < len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + 12 + length
        if end > len(data):
            yield b"", start, len(data)
            return
        kind = data[start + 4 : start + 8]
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end


def _stays(kind: bytes, body: memoryview) -> bool:
    if kind == b"iCCP":
        return False
    if kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return True
    key, _, text = bytes(body).partition(b"\0")
    if key not in _TURNS:
        return False
    if kind == b"zTXt":
        return _unpacks_within(text[1:], _LONGEST)
    if kind == b"iTXt" and text[:1] == b"\1":
        return _unpacks_within(text[2:].split(b"\0", 2)[-1], _LONGEST)
    return len(text) <= _LONGEST


def _unpacks_within(packed: bytes, most: int) -> bool:
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, most)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail


def _unpacks_to(pieces: Iterator[memoryview], wanted: int) -> bool:
    """Whether there are so many bytes; no more than a piece of them is held."""
    unpacker = zlib.decompressobj()
    found = 0
    try:
        for piece in pieces:
            while len(piece) and found < wanted and not unpacker.eof:
                found += len(unpacker.decompress(piece, _PIECE))
                piece = unpacker.unconsumed_tail
        return found >= wanted or found + len(unpacker.flush()) >= wanted
    except zlib.error:
        return False


def _passes(width: int, height: int) -> list[tuple[int, int]]:
    """Columns and rows of each pass of an interlaced picture [PNG, 8.2]."""
    return [
        ((width - x + across - 1) // across, (height - y + down - 1) // down)
        for x, y, across, down in _ADAM7
    ]
