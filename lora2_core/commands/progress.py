"""Progress of a command: a bar on a terminal, lines elsewhere."""

from ..training.result import StepInfo
from .bar import Bar, has_terminal

_LINES = 20  # a run of training, in a log
_SPARE_FACTS = (3, 2, 1, 4)  # of `facts`, on a narrow terminal: megabytes go first, the step never


class Progress:
    """on_step for a command: step, loss, mean rank, megabytes in fp16, time left."""

    def __init__(self):
        self._bar = Bar(stays=True) if has_terminal() else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def __call__(self, info: StepInfo) -> None:
        last = info.step == info.steps
        if self._bar is not None:
            self._bar.show(info.step, info.steps, facts(info), _SPARE_FACTS)
        elif info.step % max(1, info.steps // _LINES) == 0 or info.step == 1 or last:
            print("  ".join(facts(info)), flush=True)

    def looking(self, done: int, total: int) -> None:
        """on_pass: what is looked at before the first step."""
        text = f"looks for what the pictures ask of each layer {done}/{total}"
        if self._bar is not None:
            self._bar.show(done, total, [text])
        elif done == total:
            print(text, flush=True)


class Counter:
    """Work that is counted in components: a bar that goes when it is done, or every tenth."""

    def __init__(self, what: str):
        self._what = what
        self._bar = Bar(stays=False) if has_terminal() else None

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.show(done, total, [f"{self._what} {done}/{total}"])
        elif done % max(1, total // 10) == 0:
            print(f"{self._what} {done}/{total}", flush=True)


def facts(info: StepInfo) -> list[str]:
    left = info.seconds / info.step * (info.steps - info.step)
    return [
        f"step {info.step}/{info.steps}",
        f"loss {info.loss:.4f}",
        f"mean rank {info.mean_rank:.1f}",
        f"{info.megabytes:.2f} MB",
        f"{int(left) // 60}:{int(left) % 60:02d} left",
    ]
