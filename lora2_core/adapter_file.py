"""Adapter files: one ordinary LoRA `.safetensors` whose ranks differ by component.

Written with kohya's names, the only ones that ComfyUI, diffusers, Forge and A1111 all take.
Reading also understands diffusers' and PEFT's names.
"""

import errno
import itertools
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from . import file_metadata
from .errors import LoRA2Error
from .file_header import Header, encode_header, read_header, shown
from .file_layout import PRECISIONS, Layout, alpha_value
from .file_metadata import kohya_name, training_metadata
from .file_names import Stored, seen, split_key, stored_components

__all__ = [
    "Factors", "Header", "LoraState", "as_state", "components", "free_name", "pack", "read",
    "read_header", "training_metadata", "with_trigger_words", "write", "write_new",
]  # fmt: skip

SUFFIX = ".safetensors"
_UNPORTABLE = set('\\:*?"<>|')  # not allowed in a file name on Windows
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{i}" for p in ("COM", "LPT") for i in range(1, 10))}
_LONGEST_PART = 200  # bytes; file systems allow 255, and a number and the suffix follow


class LoraState(dict):
    """An adapter: dict of tensors by name, as any loader takes it, plus the file's metadata.

    metadata: safetensors metadata, all strings; {} if nothing is known.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor] | None = None,
        metadata: Mapping[str, str] | None = None,
    ):
        super().__init__(tensors or {})
        self.metadata: dict[str, str] = dict(metadata or {})


class NameTaken(LoRA2Error):
    """The file exists already and was left as it is."""


@dataclass(frozen=True)
class Factors:
    """One component as stored: ΔW = scale · up · down.

    down: [r, n] or [r, in, k, k]. up: [m, r] or [m, r, 1, 1]. alpha: None if the file has none,
    which means scale 1.
    """

    down: Tensor
    up: Tensor
    alpha: float | None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank, or 1."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def delta(self) -> Tensor:
        """ΔW [m, n] or [m, in, k, k] in fp32."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (self.scale * product).view(self.up.shape[0], *self.down.shape[1:])


def pack(folded: Mapping[str, tuple[Tensor, Tensor]], *, metadata: Mapping[str, str]) -> LoraState:
    """An adapter in kohya's names from trained factors.

    folded: module name with dots as the live model has it, in single-file ("sgm") style →
    (down [D, n] or [D, in, k, k], up [m, D] or [m, D, 1, 1]), Λ folded into down and rows beyond D
    cut. The tensors come out in fp32 on the CPU, contiguous, each in memory of its own;
    alpha is the rank if all ranks are equal; else it is 1 and up carries the factor, because not
    every loader keeps the alphas of several components apart (file_layout). Raises LoRA2Error if
    factors do not fit together or two modules have one name in the file.
    """
    state = LoraState(None, metadata)
    ranks = {down.shape[0] for down, _ in folded.values()}
    for module, (down, up) in folded.items():
        name = kohya_name(module)
        if f"{name}.alpha" in state:
            raise LoRA2Error(f"two modules are named {name} in the file; rename {module}")
        state[f"{name}.lora_down.weight"] = _owned(down)
        rank = float(down.shape[0])
        alpha = rank if len(ranks) == 1 else 1.0
        state[f"{name}.lora_up.weight"] = _owned(up).mul_(rank / alpha)
        state[f"{name}.alpha"] = torch.tensor(alpha)
    stored_components(seen(state))
    return state


def as_state(lora: Mapping[str, Tensor]) -> LoraState:
    """A LORA_MODEL of any origin as a LoraState.

    A LoRA with the host's `diffusion_model.` names gets kohya's; anything else stays as it is.
    """
    if isinstance(lora, LoraState):
        return lora
    state = LoraState(lora)
    try:
        stored_components(seen(state))
    except LoRA2Error:
        return state
    renamed = LoraState()
    for key, tensor in state.items():
        name, _ = split_key(key)
        if not name.startswith("diffusion_model."):
            return state
        renamed[kohya_name(name.removeprefix("diffusion_model.")) + key[len(name) :]] = tensor
    return renamed


def with_trigger_words(state: LoraState, words: str) -> LoraState:
    """The same adapter with trigger words (separated by commas) in its metadata."""
    return LoraState(state, file_metadata.with_trigger_words(state.metadata, words))


def read(path: str | os.PathLike) -> LoraState:
    """An adapter from a safetensors file, with the names and dtypes that the file has.

    Tensors lie on the CPU in memory of their own: the file may be replaced or deleted afterwards.
    Raises LoRA2Error (see read_header) before anything is loaded from a broken file.
    """
    header = read_header(path)
    state = LoraState(None, header.metadata)
    try:
        with safe_open(str(header.path), framework="pt", device="cpu") as file:
            for key in header.tensors:
                state[key] = file.get_tensor(key).clone()
    except (SafetensorError, OSError, RuntimeError, AttributeError) as error:
        # AttributeError: a dtype that this version of torch does not have
        raise LoRA2Error(
            f"{header.path.name} cannot be loaded ({shown(str(error))}); save it again in fp16, "
            "bf16 or fp32"
        ) from error
    return state


def components(state: Mapping[str, Tensor]) -> dict[str, Factors]:
    """An adapter's components by name; a name is what the file writes before the factors' ending.

    A LoraState of diffusers carries PEFT's alpha in its metadata; it counts where the file has no
    alpha tensor. A third factor (`lora_mid`) is folded into down. Raises LoRA2Error, naming the
    key, for other kinds of adapters (LoHa, LoKr, DoRA, …) and for factors that do not fit.
    """
    note = file_metadata.read_peft_note(getattr(state, "metadata", {}))
    return {
        stored.name: load_factors(state, stored, note) for stored in stored_components(seen(state))
    }


def alphas(state: Mapping[str, Tensor], listed: Iterable[Stored]) -> dict[str, float | None]:
    """Component → alpha, or None where the file has none."""
    note = file_metadata.read_peft_note(getattr(state, "metadata", {}))
    return {stored.name: _alpha(state, stored, note) for stored in listed}


def load_factors(state: Mapping[str, Tensor], stored: Stored, note: Mapping) -> Factors:
    """One component; note: file_metadata.read_peft_note's of the whole adapter."""
    return Factors(_down(state, stored), state[stored.up], _alpha(state, stored, note))


def write(
    state: LoraState, path: str | os.PathLike, *, precision: str, overwrite: bool = False
) -> Path:
    """Writes an adapter to `path` (.safetensors) and returns it; missing folders are made.

    precision: fp32, fp16 or bf16, for all tensors but alpha, which stays fp32. Alphas that differ
    or are missing become 1 for all components and the up factors take them over, with ΔW as it
    was: diffusers reads only one alpha right (see file_layout). The metadata gets the hashes of
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


def free_name(folder: str | os.PathLike, prefix: str, suffix: str = SUFFIX) -> Path:
    """The first free of prefix_00001, prefix_00002, … in `folder`, which the result never leaves.

    prefix may name sub-folders ("dogs/rex"). Raises LoRA2Error, naming the prefix, for one that is
    empty, absolute, climbs out of the folder (also through a symbolic link), or is no file name on
    every system.
    """
    parts = prefix.strip().split("/")
    for part in parts:
        _check_part(prefix, part)
    try:
        root = Path(folder).resolve()
        parent = root.joinpath(*parts[:-1]).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise LoRA2Error(f"the name {prefix!r} leads nowhere ({error}); choose another") from error
    if not parent.is_relative_to(root):
        raise LoRA2Error(f"the name {prefix!r} leads out of {root}; choose a name inside it")
    names = (parent / f"{parts[-1]}_{number:05d}{suffix}" for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


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
        complete.setdefault("modelspec.title", path.stem)
        complete.setdefault("ss_output_name", path.stem)
    complete["modelspec.hash_sha256"] = f"0x{digest}"  # the prefix is ModelSpec's
    complete["sshs_model_hash"] = digest
    return complete


def _check_part(prefix: str, part: str) -> None:
    wrong = (
        part in ("", ".", "..")
        or part != part.rstrip(". ")  # Windows drops these, so that ".. " would be ".."
        or any(letter in _UNPORTABLE or ord(letter) < 32 for letter in part)
        or part.split(".")[0].strip().upper() in _RESERVED
        or len(part.encode("utf-8", "surrogatepass")) > _LONGEST_PART
        or any(0xD800 <= ord(letter) < 0xE000 for letter in part)
    )
    if wrong:
        raise LoRA2Error(
            f"the name {shown(prefix)} cannot be used; choose letters, digits, spaces, - and _, "
            "with / between sub-folders"
        )


def _down(state: Mapping[str, Tensor], stored: Stored) -> Tensor:
    """The down factor; with lora_mid, down'_m = Σ_n mid_mn down_n is a k×k convolution."""
    down = state[stored.down]
    if stored.mid is None:
        return down
    return torch.einsum("mnhw,nj->mjhw", state[stored.mid].float(), down.float().flatten(1))


def _alpha(state: Mapping[str, Tensor], stored: Stored, note: Mapping) -> float | None:
    if stored.alpha is None:
        return file_metadata.peft_alpha(note, stored.name, stored.rank)
    return alpha_value(state, stored.alpha)


def _owned(tensor: Tensor) -> Tensor:
    fresh = torch.empty(tensor.shape, dtype=torch.float32)
    return fresh.copy_(tensor.detach())
