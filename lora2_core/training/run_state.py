"""Everything a training run needs to go on as if it had never stopped, and its file.

The file is safetensors with the numbers as JSON in its metadata: nothing in it is executed. It
appears whole or not at all.
"""

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import TrainConfig
from ..errors import LoRA2Error
from ..files.header import read_header

FORMAT = 1
_KEY = "lora2_state"
# change no step that was made
_FREE = ("steps", "gradient_checkpointing", "offload", "shrink_patience")


@dataclass(frozen=True)
class RunState:
    """tensors: factors, moments, generators. facts: JSON-ready; among them `step`, the steps done,
    `config`, and `components`, [module name, weight shape] of each adapted layer."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, object]

    @property
    def step(self) -> int:
        return self.facts["step"]


class NewerState(LoRA2Error):
    """A state that a newer version of this pack has written."""


def write_state(state: RunState, path: str | os.PathLike) -> None:
    """Replaces `path` in one step; an OSError (a full disk) leaves the old file as it was."""
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        facts = {"format_version": FORMAT, **state.facts}
        save_file(dict(state.tensors), temporary, metadata={_KEY: json.dumps(facts)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def read_state(path: str | os.PathLike) -> RunState:
    """Raises LoRA2Error, naming the file, if it is torn, no state, or of a newer version."""
    header = read_header(path)
    try:
        facts = json.loads(header.metadata[_KEY])
        version = facts["format_version"]
    except (KeyError, TypeError, ValueError):
        raise LoRA2Error(f"{path} is no state of a training run; choose another file") from None
    if version != FORMAT:
        raise NewerState(
            f"{path} is of version {version}, and {FORMAT} is the newest that is known here; "
            "update this node pack"
        )
    return RunState(load_file(path), facts)


def check_config(state: RunState, config: TrainConfig) -> None:
    """Raises LoRA2Error that lists every setting with which the run cannot go on.

    Free are only those that change no step that was made: steps (no fewer than were done),
    gradient_checkpointing, offload, shrink_patience. A setting that the state does not know is
    younger than it; its default is what the run was begun with.
    """
    old = {f.name: f.default for f in fields(config)} | state.facts["config"]
    changed = [
        f"{f.name} was {old[f.name]} and is {getattr(config, f.name)}"
        for f in fields(config)
        if f.name not in _FREE and old[f.name] != getattr(config, f.name)
    ]
    if changed:
        raise LoRA2Error(
            f"the run cannot go on with other settings: {'; '.join(changed)}. Set them back, or "
            "start a new run"
        )
    if config.steps < state.step:
        raise LoRA2Error(
            f"steps is {config.steps}, but the run has done {state.step}; ask for more, or start "
            "a new run"
        )
