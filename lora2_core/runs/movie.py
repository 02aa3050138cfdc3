"""The ranks of a training run as a movie of bounded size, ready for JSON."""

import base64

from ..files.module_names import kohya_name
from ..ranks.placement import outline, places
from ..training.result import StepInfo

_MOST = 240  # frames; of 560 components they take about 400 KB


class Movie:
    """begin: a rank report without ranks, and `steps`. frames: at most 240, evenly over the run.

    A frame: {step, loss, mean_rank, megabytes, seconds_left, ranks}. loss is the mean over the
    steps since the frame before; ranks are little-endian 16-bit numbers in base64, in begin's
    order of components; megabytes: of the file in fp16.
    """

    def __init__(self):
        self.begin: dict = {}
        self.frames: list[dict] = []
        self._every = 1  # steps between two frames that are kept
        self._losses: list[float] = []

    def step(self, info: StepInfo) -> None:
        """Takes in one step's on_step."""
        if not self.begin:
            self.begin = {"steps": info.steps, **_layout(info)}
        self._losses.append(info.loss)
        if info.step % self._every and info.step not in (1, info.steps):
            return
        self.frames.append(frame(info, sum(self._losses) / len(self._losses)))
        self._losses = []
        if len(self.frames) > _MOST:
            last = self.frames[-1]
            self.frames = self.frames[::2]
            if self.frames[-1] is not last:
                self.frames.append(last)
            self._every *= 2


def frame(info: StepInfo, loss: float) -> dict:
    """A Movie's frame."""
    left = info.seconds / info.step * (info.steps - info.step)
    ranks = b"".join(rank.to_bytes(2, "little") for rank in info.ranks)
    return {
        "step": info.step,
        "loss": loss,
        "mean_rank": info.mean_rank,
        "megabytes": info.megabytes,
        "seconds_left": round(left, 1),
        "ranks": base64.b64encode(ranks).decode(),
    }


def _layout(info: StepInfo) -> dict:
    placed = places({module: kohya_name(module) for module, _ in info.components})
    components = [
        {"name": kohya_name(module), "shape": list(shape), **placed[module]._asdict()}
        for module, shape in info.components
    ]
    return {"components": components, **outline(placed.values())}
