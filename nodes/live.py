"""Training runs as pages follow them: what is sent while they go on, and what late pages get."""

import time
from collections import OrderedDict
from threading import Lock

from ..lora2_core.movie import Movie, frame
from ..lora2_core.train import StepInfo

_MOST = 8  # runs that can be looked at again
_INTERVAL = 0.25  # seconds between two messages


class LiveRun:
    """One run. Messages: {"kind": "begin", …movie.begin}, {"kind": "frame", …} and "end"."""

    def __init__(self):
        self._movie = Movie()
        self._ended = False
        self._losses: list[float] = []
        self._sent = 0.0

    def step(self, info: StepInfo) -> list[dict]:
        """Takes a step in; returns the messages that are due."""
        first = not self._movie.begin
        self._movie.step(info)
        self._losses.append(info.loss)
        messages = [{"kind": "begin", **self._movie.begin}] if first else []
        now = time.monotonic()
        if now - self._sent >= _INTERVAL or info.step == info.steps:
            self._sent = now
            mean = sum(self._losses) / len(self._losses)
            self._losses = []
            messages.append({"kind": "frame", **frame(info, mean)})
        return messages

    def end(self) -> list[dict]:
        """The run is over, whether or not it did all its steps."""
        self._ended = True
        return [{"kind": "end"}] if self._movie.begin else []

    def state(self) -> dict | None:
        """{"begin", "frames", "ended"}, or None before the first step."""
        if not self._movie.begin:
            return None
        return {
            "begin": self._movie.begin, "frames": list(self._movie.frames), "ended": self._ended,
        }  # fmt: skip


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


runs = Runs()
