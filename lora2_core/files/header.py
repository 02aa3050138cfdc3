"""The header of a safetensors file: checked before any tensor byte is read, and written.

Layout: 8 bytes little-endian header length, the header (a JSON object: tensor name → dtype, shape,
data_offsets, and optional `__metadata__` of strings), then the tensors without gaps. Source: the
format section of safetensors' README.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..errors import LoRA2Error
from .peft_folder import settings_beside, weights_of

MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
MAX_DIMENSIONS = 16
METADATA = "__metadata__"
PEFT_NOTE = "lora_adapter_metadata"  # diffusers' key for PEFT's settings
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header states it. start, end: bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header: every tensor lies within the file and none overlaps another.

    tensors: name → dtype, shape, byte range, in file order. metadata: the file's strings.
    data_start: where the first tensor begins in the file. Nothing in metadata is to be trusted.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: str | os.PathLike) -> Header:
    """Reads and checks the header of a safetensors file of any size; touches no tensor byte.

    Of a folder that PEFT saved, its weights. The settings that PEFT writes beside them stand in the
    metadata where diffusers puts them.

    Raises LoRA2Error, naming the file and the value that is wrong, for a file that is missing,
    is no regular file, holds pickled Python, is truncated, or whose header does not describe it.
    """
    path = weights_of(Path(path))
    if path.suffix.lower() in _PICKLES:
        raise LoRA2Error(
            f"{path.name} may hold pickled Python, which can run any program when it is opened; "
            "convert it to .safetensors first"
        )
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise LoRA2Error(f"{path} is not a file; choose a .safetensors file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            _check_length(path, size, length)
            raw = file.read(length)
    except FileNotFoundError as error:
        raise LoRA2Error(f"{path} does not exist; check the name and the folder") from error
    except OSError as error:
        raise LoRA2Error(
            f"{path} cannot be read ({error.strerror}); check its permissions and the disk"
        ) from error
    except ValueError as error:  # a path with a NUL byte
        if isinstance(error, LoRA2Error):
            raise
        raise LoRA2Error(f"{str(path)!r} is not a path ({error}); choose another name") from error
    if len(raw) != length:
        raise _broken(path, f"its header ends after {len(raw)} of {length} bytes")
    entries = _parse(path, raw)
    metadata = _metadata(path, entries.pop(METADATA, {}))
    tensors = {name: _tensor(path, name, entry) for name, entry in entries.items()}
    beside = None if PEFT_NOTE in metadata else settings_beside(path, tensors)
    if beside is not None:
        metadata = metadata | {PEFT_NOTE: beside}
    return Header(path, _in_order(path, tensors, size - 8 - length), metadata, 8 + length)


def encode_header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the first tensor: length and JSON, padded to a multiple of 8.

    Raises LoRA2Error if the metadata is not text or the header passes the format's limit.
    """
    entries: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    for name, info in tensors.items():
        entries[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.start, info.end],
        }
    for name, value in metadata.items():
        if not (_is_text(name) and _is_text(value)):
            raise LoRA2Error(f"metadata {shown(name)} is {shown(value)}; it must be plain text")
    raw = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    if len(raw) > MAX_HEADER:
        raise LoRA2Error(
            f"the metadata makes a header of {len(raw)} bytes, more than the format's "
            f"{MAX_HEADER}; shorten it"
        )
    return len(raw).to_bytes(8, "little") + raw


def shown(value: object) -> str:
    """A value of unknown size and origin, fit for a message."""
    text = ascii(value) if isinstance(value, str | int | float | bool) else type(value).__name__
    return text if len(text) <= 160 else f"{text[:120]}… ({len(text)} characters)"


def _check_length(path: Path, size: int, length: int) -> None:
    if size < 8:
        raise _broken(path, f"it has {size} bytes, too few for a header")
    if length > size - 8:
        raise _broken(path, f"it says its header has {length} bytes, but {size - 8} bytes follow")
    if length > MAX_HEADER:
        raise _broken(path, f"its header has {length} bytes, more than the limit of {MAX_HEADER}")


def _parse(path: Path, raw: bytes) -> dict[str, object]:
    def no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names: set[str] = set()
            twice = next(name for name, _ in pairs if name in names or names.add(name))
            raise _broken(path, f"its header has {shown(twice)} twice")
        return found

    def no_constants(text: str) -> None:
        raise _broken(path, f"its header holds {text}")

    if not raw.startswith(b"{"):
        raise _broken(path, f"its header begins with {raw[:8]!r} instead of a brace")
    try:
        entries = json.loads(
            raw.decode("utf-8"), object_pairs_hook=no_repeats, parse_constant=no_constants
        )
    except LoRA2Error:
        raise
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its header is not JSON ({shown(str(error))})") from error
    for name in entries:
        if not _is_text(name):
            raise _broken(path, f"the tensor name {shown(name)} is not valid text")
    return entries


def _metadata(path: Path, found: object) -> dict[str, str]:
    if not isinstance(found, dict):
        raise _broken(path, f"its metadata is {shown(found)} instead of an object")
    for name, value in found.items():
        if not (_is_text(name) and _is_text(value)):
            raise _broken(path, f"its metadata {shown(name)} is {shown(value)} instead of text")
    return found


def _tensor(path: Path, name: str, entry: object) -> TensorInfo:
    if not isinstance(entry, dict):
        raise _broken(path, f"tensor {shown(name)} is described by {shown(entry)}")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _broken(path, f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    if not _is_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _broken(path, f"tensor {shown(name)} has no valid shape")
    if prod(side or 1 for side in shape) >= 2**63:
        raise _broken(path, f"tensor {shown(name)} has an impossible shape")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"tensor {shown(name)} has no valid data_offsets")
    needed, given = prod(shape) * DTYPE_BYTES[dtype], offsets[1] - offsets[0]
    if needed != given:
        raise _broken(
            path,
            f"tensor {shown(name)} is {dtype} of shape {shape}, {needed} bytes, but its "
            f"data_offsets span {given}",
        )
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _in_order(
    path: Path, tensors: Mapping[str, TensorInfo], data_size: int
) -> dict[str, TensorInfo]:
    """The tensors by position; they must fill the data from its first byte to its last."""
    ordered = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end))
    reached = 0
    for name, info in ordered:
        if info.start != reached:
            word = "overlaps" if info.start < reached else "leaves a gap after"
            raise _broken(path, f"tensor {shown(name)} {word} the one before it")
        reached = info.end
    if reached != data_size:
        raise _broken(
            path, f"its header describes {reached} bytes of tensors, but it has {data_size}"
        )
    return dict(ordered)


def _is_sizes(found: object) -> bool:
    return isinstance(found, list) and all(type(n) is int and 0 <= n < 2**63 for n in found)


def _is_text(found: object) -> bool:
    if not isinstance(found, str):
        return False
    try:
        found.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: other readers refuse it
        return False
    return True


def _broken(path: Path, what: str) -> LoRA2Error:
    return LoRA2Error(
        f"{path.name} is not a whole safetensors file: {what}; download or save it again"
    )
