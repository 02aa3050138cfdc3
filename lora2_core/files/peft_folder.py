"""What PEFT's save_pretrained writes: a folder with the weights, and their settings beside them."""

from collections.abc import Iterable
from os.path import isfile  # false, and no error, for what is no path
from pathlib import Path

from ..errors import LoRA2Error

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."  # of every name that PEFT writes
_LONGEST = 4_000_000  # bytes; a pattern for each of SDXL's layers needs 0.1 million


def weights_of(path: Path) -> Path:
    """The weights of such a folder; any other path as it is."""
    inner = path / WEIGHTS
    return inner if isfile(inner) else path


def settings_beside(path: Path, keys: Iterable[str]) -> str | None:
    """The text of the settings beside a file of PEFT's, None for a file without.

    keys: of its tensors. A file of the name or of the names that PEFT gives is PEFT's; another that
    happens to lie in the same folder is not. Raises LoRA2Error if they are there and cannot be
    read: without them the scale is unknown.
    """
    config = path.with_name(CONFIG)
    if not isfile(config):
        return None
    if path.name != WEIGHTS and not any(_PREFIX in key for key in keys):
        return None
    try:
        with config.open("rb") as file:
            raw = file.read(_LONGEST + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LoRA2Error(
            f"{CONFIG} beside {path.name} cannot be read ({error}), so that the alpha is unknown; "
            "copy it anew, or move it away if it is not of this LoRA"
        ) from None
    if not text.strip() or len(raw) > _LONGEST:
        raise LoRA2Error(
            f"{CONFIG} beside {path.name} is {'empty' if len(raw) <= _LONGEST else 'too long'}, so "
            "that the alpha is unknown; copy it anew, or move it away if it is not of this LoRA"
        )
    return text


def stamp(path: Path) -> str:
    """What changes when the file or the settings beside it do."""
    found = (path, path.with_name(CONFIG))
    status = [one.stat() for one in found if isfile(one)]
    return ", ".join(f"{one.st_mtime_ns} {one.st_size}" for one in status)
