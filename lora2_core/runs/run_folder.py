"""A run's folder: states to go on from and adapters to use, of which the last few are kept."""

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import LoRA2Error
from ..files import writing
from ..files.folders import make_folder
from ..training.loop import Training
from ..training.result import StepInfo, TrainResult
from ..training.run_state import NewerState, RunState, read_state, write_state
from .packing import pack_result
from .previews import Previews

_STATE = re.compile(r"step_(\d{6,})\.state\.safetensors")
_log = logging.getLogger(__name__)


class RunFolder:
    """step_000500.state.safetensors and step_000500.safetensors, for the last `keep` steps kept.

    facts: further arguments of packing.pack_result. Raises LoRA2Error if the folder cannot be made
    or written to.
    """

    def __init__(self, path: Path, keep: int = 2, **facts):
        self.path = path
        self._keep = keep
        self._facts = facts
        make_folder(path)

    def save(self, training: Training) -> Path:
        """Writes adapter and state of the run as it is now, and removes the oldest.

        The state comes last: where there is one, there is its adapter. Raises LoRA2Error for a
        disk that is full or not writable; what was there before stays.
        """
        stem = f"step_{training.done:06d}"
        adapter = pack_result(training.result(), **self._facts)
        path = self.path / f"{stem}.safetensors"
        writing.write(adapter, path, precision="fp32", overwrite=True)
        try:
            write_state(training.state(), self.path / f"{stem}.state.safetensors")
        except OSError as error:
            raise LoRA2Error(f"{path.parent} cannot be written: {error.strerror}") from error
        self.prune(self._keep)
        return path

    def prune(self, keep: int) -> None:
        """Removes all but the last `keep` states and their adapters, if it can."""
        for step, state in self._states()[keep:]:
            with suppress(OSError):
                state.unlink()
                (self.path / f"step_{step:06d}.safetensors").unlink()

    def newest(self) -> RunState | None:
        """The last state that is whole; torn ones are passed over, with a line in the log.

        Raises NewerState for one that a newer version of this pack has written.
        """
        for _, path in self._states():
            try:
                return read_state(path)
            except NewerState:
                raise
            except LoRA2Error as error:
                _log.warning("passed over: %s", error)
        return None

    def _states(self) -> list[tuple[int, Path]]:
        """(step, file), the newest first."""
        found = ((_STATE.fullmatch(path.name), path) for path in self.path.iterdir())
        return sorted(((int(m[1]), path) for m, path in found if m), reverse=True)


def run_kept(
    training: Training,
    folder: RunFolder,
    every: int,
    on_step: Callable[[StepInfo], None],
    on_trouble: Callable[[str], None],
    previews: Previews | None = None,
    on_pass: Callable[[int, int], None] | None = None,
) -> TrainResult:
    """training.run, its state kept every `every` steps (0: never), on any error, and at its end;
    then it alone. Previews are drawn when the step's state has been kept.

    on_step and on_pass may raise to stop. A state that cannot be written goes to on_trouble, as
    what training.run has to say, and the training goes on.
    """
    tried = training.done

    def save() -> None:
        nonlocal tried
        tried = training.done
        try:
            folder.save(training)
        except LoRA2Error as error:
            on_trouble(f"the state of step {training.done} could not be kept: {error}")

    def note(info: StepInfo) -> None:
        on_step(info)
        if every and info.step % every == 0:
            save()
        draw()

    def draw() -> None:
        if previews is not None:
            previews.draw(training)

    try:
        result = training.run(note, on_start=draw, on_trouble=on_trouble, on_pass=on_pass)
    finally:
        if training.done > tried:
            save()
        if previews is not None:
            previews.finish()
        with suppress(OSError):  # one that nothing was written to
            folder.path.rmdir()
    folder.prune(1)  # of a run that is done the last is enough
    return result
