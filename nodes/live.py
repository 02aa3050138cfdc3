"""A run as a page follows it: what is sent as it goes on, and what a page gets that comes late."""

import base64
import time
from collections import OrderedDict

from ..lora2_core.file_metadata import kohya_name
from ..lora2_core.placement import outline, place
from ..lora2_core.train import StepInfo

_FRAMES = 240  # a run's movie has at most so many; 560 ranks of two bytes each: 360 KB
_RUNS = 8
_INTERVAL = 0.25  # seconds between two messages


class LiveRun:
    """Frames of one run, thinned out as it goes on; losses are means over the steps between."""

    def __init__(self):
        self.begin: dict = {}
        self._frames: list[dict] = []
        self._every = 1  # steps between two frames that are kept
        self._losses: list[float] = []
        self._sent = 0.0

    def step(self, info: StepInfo) -> list[dict]:
        """Takes a step in; returns the messages that are due."""
        messages = []
        if not self.begin:
            self.begin = {"kind": "begin", "steps": info.steps, **_layout(info)}
            messages.append(self.begin)
        self._losses.append(info.loss)
        last = info.step == info.steps
        if info.step % self._every == 0 or info.step == 1 or last:
            self._keep(info)
        now = time.monotonic()
        if now - self._sent >= _INTERVAL or last:
            self._sent = now
            messages.append(_frame(info, info.loss))
        return messages

    def state(self) -> dict:
        """All of the run so far, for a page that comes late and for the movie."""
        return {"begin": self.begin, "frames": self._frames}

    def _keep(self, info: StepInfo) -> None:
        self._frames.append(_frame(info, sum(self._losses) / len(self._losses)))
        self._losses = []
        if len(self._frames) > _FRAMES:
            last = self._frames[-1]
            self._frames = self._frames[::2]
            if self._frames[-1] is not last:
                self._frames.append(last)
            self._every *= 2


class Runs:
    """The last runs, by page and node."""

    def __init__(self):
        self._runs: OrderedDict[tuple[str | None, str], LiveRun] = OrderedDict()

    def start(self, client: str | None, node: str) -> LiveRun:
        run = self._runs[client, node] = LiveRun()
        self._runs.move_to_end((client, node))
        while len(self._runs) > _RUNS:
            self._runs.popitem(last=False)
        return run

    def state(self, client: str, node: str) -> dict | None:
        run = self._runs.get((client, node))
        return None if run is None or not run.begin else run.state()


def _layout(info: StepInfo) -> dict:
    """A rank report without the ranks."""
    names = [kohya_name(module) for module, _ in info.components]
    places = [place(name) for name in names]
    components = [
        {"name": name, "shape": list(shape), **found._asdict()}
        for name, found, (_, shape) in zip(names, places, info.components, strict=True)
    ]
    return {"components": components, **outline(places)}


def _frame(info: StepInfo, loss: float) -> dict:
    left = info.seconds / info.step * (info.steps - info.step)
    return {
        "kind": "frame",
        "step": info.step,
        "loss": loss,
        "mean_rank": info.mean_rank,
        "megabytes": info.megabytes,
        "seconds_left": round(left, 1),
        "ranks": base64.b64encode(_little_endian(info.ranks)).decode(),
    }


def _little_endian(ranks: tuple[int, ...]) -> bytes:
    return b"".join(rank.to_bytes(2, "little") for rank in ranks)


runs = Runs()
