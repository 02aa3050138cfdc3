"""An adapter file whose tensors are read when they are asked for."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..signs import readable
from .header import Header, read_header, shown

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


def name_of(path: str | os.PathLike, name: str = "") -> str:
    """What a file is called in messages and metadata: `name`, or else its own, as text that every
    encoding takes."""
    return readable(name or Path(path).name)


class LazyState(Mapping[str, Tensor]):
    """Like adapter_file.LoraState, but a tensor is read from the file at every access.

    header, metadata: of the file. Nothing is mapped, so that memory holds what is in use and no
    more, and a file that changes underneath is an error and not a crash. Raises LoRA2Error for a
    broken file before a byte of a tensor is read.
    """

    def __init__(self, path: str | os.PathLike):
        self.header: Header = read_header(path)
        self.metadata: dict[str, str] = dict(self.header.metadata)

    def __getitem__(self, key: str) -> Tensor:
        info = self.header.tensors[key]
        name = self.header.path.name
        if info.dtype not in _DTYPES:
            raise LoRA2Error(
                f"{shown(key)} of {name} is {info.dtype}; save it again in fp16, bf16 or fp32"
            )
        data = bytearray(info.end - info.start)
        try:
            with open(self.header.path, "rb", buffering=0) as file:
                file.seek(self.header.data_start + info.start)
                count = file.readinto(data)
        except OSError as error:
            raise LoRA2Error(f"{name} cannot be read: {error.strerror}") from error
        if count != len(data):
            raise LoRA2Error(f"{name} has become shorter while it was read; start again")
        return torch.frombuffer(data, dtype=_DTYPES[info.dtype]).view(info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.tensors)

    def __len__(self) -> int:
        return len(self.header.tensors)
