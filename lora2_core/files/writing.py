"""Writes an adapter's file: whole or not at all, and never over another."""

import errno
import itertools
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import LoRA2Error
from ..signs import readable
from .adapter_file import LoraState
from .free_name import SUFFIX, free_name
from .header import encode_header, shown
from .layout import PRECISIONS, Layout


class NameTaken(LoRA2Error):
    """The file exists already and was left as it is."""


def write(
    state: LoraState, path: str | os.PathLike, *, precision: str, overwrite: bool = False
) -> Path:
    """Writes an adapter to `path` (.safetensors) and returns it; missing folders are made.

    precision: fp32, fp16 or bf16, for all tensors but alpha, which stays fp32. Alphas that differ
    or are missing become 1 for all components and the up factors take them over, with ΔW as it
    was: diffusers reads only one alpha right (see layout). The metadata gets the hashes of
    the tensors and, where a title is missing, the file's name. The file appears whole or not at
    all. Raises LoRA2Error and leaves nothing behind if the file exists and overwrite is false
    (NameTaken), a value is NaN, infinite or beyond the precision's range, or the disk is full or
    not writable.
    """
    path = Path(path)
    if path.suffix.lower() != SUFFIX or "\0" in str(path):
        raise LoRA2Error(f"{shown(str(path))} cannot be used; choose a name ending in {SUFFIX}")
    if precision not in PRECISIONS:
        raise LoRA2Error(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if not overwrite and os.path.lexists(path):
        raise _taken(path)
    layout = Layout(state, precision)
    metadata = _finished(state.metadata, path, layout.sha256())
    made = _missing_folders(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, encode_header(layout.tensors, metadata), layout, overwrite)
    except BaseException as error:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise LoRA2Error(
                f"{path} cannot be written ({error.strerror or error}); free some space, check "
                "the folder's permissions or choose another name"
            ) from error
        raise
    return path


def write_new(state: LoraState, folder: str | os.PathLike, prefix: str, *, precision: str) -> Path:
    """Writes an adapter under the first free numbered name of `folder` (see free_name, write)."""
    while True:
        with suppress(NameTaken):  # another process took the name in the meantime
            return write(state, free_name(folder, prefix), precision=precision)


def _write_whole(path: Path, head: bytes, layout: Layout, overwrite: bool) -> None:
    """Temporary file in the same folder, fsync, then the final name in one step."""
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(head)
            for data in layout:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _rename_if_free(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(path.parent)


def _rename_if_free(temporary: Path, path: Path) -> None:
    """Unlike a check followed by a rename, this cannot hit a file made in between."""
    try:
        os.link(temporary, path)
        return
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
    # no hard links here (FAT, some network folders): claim the name, then replace the claim
    try:
        with open(path, "xb"):
            pass
    except FileExistsError as error:
        raise _taken(path) from error
    try:
        os.replace(temporary, path)
    except OSError:
        path.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows cannot open a folder; there the rename is enough
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _missing_folders(folder: Path) -> list[Path]:
    """Those of `folder` and its parents that do not exist, innermost first."""
    return list(itertools.takewhile(lambda f: not os.path.exists(f), (folder, *folder.parents)))


def _taken(path: Path) -> NameTaken:
    return NameTaken(f"{path} exists already and was not touched; choose another name")


def _finished(metadata: Mapping[str, str], path: Path, digest: str) -> dict[str, str]:
    complete = dict(metadata)
    if "modelspec.sai_model_spec" in complete:
        complete.setdefault("modelspec.title", readable(path.stem))
        complete.setdefault("ss_output_name", readable(path.stem))
    complete["modelspec.hash_sha256"] = f"0x{digest}"  # the prefix is ModelSpec's
    complete["sshs_model_hash"] = digest
    return complete
