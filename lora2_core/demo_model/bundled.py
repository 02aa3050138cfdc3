"""The weights that come with the package."""

import hashlib
from functools import lru_cache
from pathlib import Path

from ..errors import LoRA2Error

WEIGHTS = Path(__file__).with_name("weights.safetensors")
CHECKSUM = Path(__file__).with_name("weights.sha256")
_WAY_OUT = "install the pack again, or run `git checkout -- lora2_core/demo_model` in its folder"


@lru_cache(maxsize=1)
def weights() -> Path:
    """The file, once its checksum has been compared.

    Raises LoRA2Error if it is missing or damaged.
    """
    try:
        found = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
        expected = CHECKSUM.read_text().strip()
    except OSError as error:
        raise LoRA2Error(
            f"the demo model cannot be read: {error.filename}: {error.strerror}; {_WAY_OUT}"
        ) from None
    if found != expected:
        raise LoRA2Error(
            f"the demo model {WEIGHTS.name} is damaged (SHA-256 {found[:12]}…, not "
            f"{expected[:12]}…); {_WAY_OUT}"
        )
    return WEIGHTS
