"""Progress of a training run on a terminal or in a log."""

import sys
import time

from ..training.result import StepInfo

_REDRAW = 0.1  # seconds, on a terminal
_LINES = 20  # lines a run, in a log


class Progress:
    """on_step for a command: step, loss, mean rank, megabytes in fp16, time left."""

    def __init__(self):
        self._terminal = sys.stdout.isatty()
        self._drawn = 0.0

    def __call__(self, info: StepInfo) -> None:
        last = info.step == info.steps
        if self._terminal:
            now = time.monotonic()
            if now - self._drawn >= _REDRAW or last:
                self._drawn = now
                print(f"\r{line(info)}\x1b[K", end="\n" if last else "", flush=True)
        elif info.step % max(1, info.steps // _LINES) == 0 or info.step == 1 or last:
            print(line(info), flush=True)


class Counter:
    """Work that is counted in components: drawn anew on a terminal, every tenth in a log."""

    def __init__(self, what: str):
        self._what = what
        self._terminal = sys.stdout.isatty()
        self._drawn = 0.0

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_) -> None:
        if self._terminal and self._drawn:
            print("\r\x1b[K", end="", flush=True)

    def __call__(self, done: int, total: int) -> None:
        if self._terminal:
            now = time.monotonic()
            if now - self._drawn >= _REDRAW:
                self._drawn = now
                print(f"\r{self._what} {done}/{total}\x1b[K", end="", flush=True)
        elif done % max(1, total // 10) == 0:
            print(f"{self._what} {done}/{total}", flush=True)


def warn(text: str) -> None:
    """Says what went wrong without stopping anything."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def line(info: StepInfo) -> str:
    left = info.seconds / info.step * (info.steps - info.step)
    return (
        f"step {info.step}/{info.steps}  loss {info.loss:.4f}  mean rank {info.mean_rank:.1f}  "
        f"{info.megabytes:.2f} MB  {int(left) // 60}:{int(left) % 60:02d} left"
    )
