"""An adapter file whose tensors are read when they are asked for."""

import os
from collections.abc import Iterator, Mapping

from safetensors import safe_open
from torch import Tensor

from .errors import LoRA2Error
from .file_header import Header, read_header, shown


class LazyState(Mapping[str, Tensor]):
    """Like adapter_file.LoraState, but a tensor is read from the file at every access.

    header, metadata: of the file. Raises LoRA2Error for a broken file before a byte of a tensor is
    read.
    """

    def __init__(self, path: str | os.PathLike):
        self.header: Header = read_header(path)
        self._file = safe_open(str(self.header.path), framework="pt", device="cpu")
        self.metadata: dict[str, str] = dict(self.header.metadata)

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.header.tensors:
            raise KeyError(key)
        try:
            return self._file.get_tensor(key)
        except Exception as error:  # the library raises classes of its own
            raise LoRA2Error(
                f"{shown(key)} of {self.header.path.name} cannot be read ({error})"
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.tensors)

    def __len__(self) -> int:
        return len(self.header.tensors)
