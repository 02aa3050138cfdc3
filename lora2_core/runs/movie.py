"""The ranks of a training run as a movie of bounded size, ready for JSON."""

import base64
from collections.abc import Sequence

from ..files.module_names import kohya_name
from ..ranks.placement import outline, places
from ..training.result import StepInfo, TrainResult
from .packing import megabytes
from .shares import coded

_MOST = 240  # frames; of 560 components they take about 600 KB


class Movie:
    """begin: a rank report without ranks, and `steps`. frames: at most 240, evenly over the run.

    A frame: {step, loss, mean_rank, megabytes, seconds_left, ranks}. loss is the mean over the
    steps since the frame before; ranks are little-endian 16-bit numbers in base64, in begin's
    order of components; megabytes: of the file in fp16. Where it is known, effects: what each
    component has of the whole effect, as `shares` codes it. The last frame of a finished run is
    of its file, and has `cut_from`, the mean rank of the last step, if the file has less.

    effects: the newest that are known, "" without.
    """

    def __init__(self):
        self.begin: dict = {}
        self.frames: list[dict] = []
        self.effects = ""
        self._every = 1  # steps between two frames that are kept
        self._losses: list[float] = []

    def step(self, info: StepInfo, ask: bool = True) -> None:
        """Takes in one step's on_step. ask: whether the device is asked for the effects, which
        takes a moment; without, a frame has the last ones."""
        if not self.begin:
            self.begin = {"steps": info.steps, **_layout(info)}
        if ask and info.effects is not None:
            self.effects = coded(info.effects()) or self.effects
        self._losses.append(info.loss)
        if info.step % self._every and info.step not in (1, info.steps):
            return
        self.frames.append(frame(info, sum(self._losses) / len(self._losses), self.effects))
        self._losses = []
        if len(self.frames) > _MOST:
            last = self.frames[-1]
            self.frames = self.frames[::2]
            if self.frames[-1] is not last:
                self.frames.append(last)
            self._every *= 2

    def finish(self, result: TrainResult) -> dict | None:
        """Makes the last step's frame one of the run's file, and returns it; None if there is no
        such frame."""
        if not self.frames or self.frames[-1]["step"] != result.steps:
            return None
        last, ranks = self.frames[-1], [rank for _, rank in result.ranks.values()]
        mean = sum(ranks) / len(ranks)
        new = {"mean_rank": mean, "megabytes": megabytes(result), "ranks": _packed(ranks)}
        sums = [sum(result.effects.get(name, ())) for name in result.ranks]
        if (whole := sum(sums)) > 0:
            new["effects"] = coded([one / whole for one in sums])
        if mean < last["mean_rank"]:
            new["cut_from"] = last["mean_rank"]
        self.frames[-1] = last | new
        return self.frames[-1]


def frame(info: StepInfo, loss: float, effects: str = "") -> dict:
    """A Movie's frame."""
    left = info.seconds / info.step * (info.steps - info.step)
    found = {
        "step": info.step,
        "loss": loss,
        "mean_rank": info.mean_rank,
        "megabytes": info.megabytes,
        "seconds_left": round(left, 1),
        "ranks": _packed(info.ranks),
    }
    return found | ({"effects": effects} if effects else {})


def _packed(ranks: Sequence[int]) -> str:
    return base64.b64encode(b"".join(rank.to_bytes(2, "little") for rank in ranks)).decode()


def _layout(info: StepInfo) -> dict:
    placed = places({module: kohya_name(module) for module, _ in info.components})
    components = [
        {"name": kohya_name(module), "shape": list(shape), **placed[module]._asdict()}
        for module, shape in info.components
    ]
    return {"components": components, **outline(placed.values())}
