"""Training runs as pages follow them: what is sent while they go on, and what late pages get."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock

from ...lora2_core.runs.movie import Movie, frame
from ...lora2_core.runs.preview_folder import PreviewFolder
from ...lora2_core.training.result import StepInfo, TrainResult

_MOST = 8  # runs that can be looked at again
_INTERVAL = 0.25  # seconds between two messages
_ASKED = 1.0  # seconds between two questions to the device, of what changes slowly
_THUMBNAIL = 256  # px


class LiveRun:
    """One run. Messages: {"kind": "begin", …movie.begin, run, previews}, {"kind": "frame", …},
    {"kind": "preview", step, pictures}, {"kind": "trouble", text} and "end". The frame of the last
    step comes twice if the run is finished: the second is of its file.

    run: a name for its pictures. previews: a list of {step, pictures}, how many each step has.
    """

    def __init__(self):
        self.token = secrets.token_hex(8)
        self.previews: PreviewFolder | None = None
        self._trouble = ""
        self._movie = Movie()
        self._ended = False
        self._losses: list[float] = []
        self._sent = 0.0
        self._asked = 0.0

    def step(self, info: StepInfo) -> list[dict]:
        """Takes a step in; returns the messages that are due."""
        first = not self._movie.begin
        now = time.monotonic()
        due = now - self._sent >= _INTERVAL or info.step == info.steps
        ask = due and now - self._asked >= _ASKED
        if ask:
            self._asked = now
        self._movie.step(info, ask)
        self._losses.append(info.loss)
        messages = [{"kind": "begin", **self._begin(), "previews": self._drawn()}] if first else []
        if first and self._trouble:
            messages.append({"kind": "trouble", "text": self._trouble})
        if due:
            self._sent = now
            mean = sum(self._losses) / len(self._losses)
            self._losses = []
            messages.append({"kind": "frame", **frame(info, mean, self._movie.effects)})
        return messages

    def finished(self, result: TrainResult) -> list[dict]:
        """What the run has ended in, which may be less than its last step had."""
        last = self._movie.finish(result)
        return [] if last is None else [{"kind": "frame", **last}]

    def drawn(self, step: int, pictures: int) -> list[dict]:
        """A step's pictures are in the folder."""
        return self._started({"kind": "preview", "step": step, "pictures": pictures})

    def complain(self, text: str) -> list[dict]:
        """Something went wrong that did not stop the training."""
        # what comes before the first step is told together, with "begin"
        early = self._trouble if not self._movie.begin else ""
        self._trouble = f"{early}\n{text}" if early else text
        return self._started({"kind": "trouble", "text": text})

    def end(self) -> list[dict]:
        """The run is over, whether or not it did all its steps."""
        self._ended = True
        return self._started({"kind": "end"})

    def state(self) -> dict | None:
        """{"begin", "frames", "ended", "previews", "trouble"}, or None before the first step."""
        if not self._movie.begin:
            return None
        return {
            "begin": self._begin(), "frames": list(self._movie.frames), "ended": self._ended,
            "previews": self._drawn(), "trouble": self._trouble,
        }  # fmt: skip

    def _begin(self) -> dict:
        return self._movie.begin | {"run": self.token}

    def _drawn(self) -> list[dict]:
        steps = {} if self.previews is None else self.previews.steps()
        return [{"step": step, "pictures": len(paths)} for step, paths in steps.items()]

    def _started(self, message: dict) -> list[dict]:
        """Before the first step a page has nowhere to put it; "begin" and the state tell it all."""
        return [message] if self._movie.begin else []


class Runs:
    """The last runs, by page (the host's client), workflow and node."""

    def __init__(self):
        self._runs: OrderedDict[tuple[str, str, str], LiveRun] = OrderedDict()
        self._lock = Lock()

    def start(self, client: str, workflow: str, node: str) -> LiveRun:
        run = LiveRun()
        with self._lock:
            self._runs.pop((client, workflow, node), None)
            self._runs[client, workflow, node] = run
            while len(self._runs) > _MOST:
                self._runs.popitem(last=False)
        return run

    def states(self, client: str, workflow: str) -> dict[str, dict]:
        """Node → state of its last run."""
        with self._lock:
            mine = {key[2]: run for key, run in self._runs.items() if key[:2] == (client, workflow)}
        found = {node: run.state() for node, run in mine.items()}
        return {node: state for node, state in found.items() if state}

    def thumbnail(self, asked: Mapping[str, str]) -> bytes | None:
        """A picture of a run as a small JPEG: {"run": token, "step", "picture": index}; or None."""
        with self._lock:
            mine = [run for run in self._runs.values() if run.token == asked.get("run")]
        try:
            step, picture = int(asked["step"]), int(asked["picture"])
        except (KeyError, ValueError):
            return None
        if not mine or mine[0].previews is None:
            return None
        return mine[0].previews.thumbnail(step, picture, _THUMBNAIL)


runs = Runs()
