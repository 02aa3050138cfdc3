"""A progress bar on a terminal of any width."""

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from tqdm import tqdm

_REDRAW = 0.1  # seconds
_WIDEST = 40  # columns of the bar itself
_NARROWEST = 8  # with its frame; facts go before it
_SPARE = 3  # columns: some terminals wrap at the last one, and Ctrl-C echoes ^C
_UNKNOWN = 80  # columns of a terminal that does not say
_ROWS = 20  # whatever they are: tqdm hides a bar from a terminal of one row
_GAP = "  "


def has_terminal() -> bool:
    """Whether standard output can draw a line anew."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


class Bar:
    """One line that is drawn anew: facts, and how much of the work is done.

    Within the block, whole lines that go to standard error appear above it. stays: whether it is
    still there afterwards; after an error it is in any case, to show how far the work came.
    """

    def __init__(self, stays: bool):
        self._stays = stays
        self._bar: tqdm | None = None
        self._stderr: TextIO | None = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if self._bar is None:
            return
        if self._stderr is not None:
            sys.stderr.close()
            sys.stderr = self._stderr
        self._bar.leave = self._stays or kind is not None
        self._bar.close()

    def show(self, done: int, total: int, facts: Sequence[str], spare: Sequence[int] = ()) -> None:
        """facts: in their order. spare: places of those that a narrow terminal does without, the
        first to go first.
        """
        columns = _columns()
        words = fitted(facts, spare, columns)
        room = min(columns - len(words) - len(_GAP), _WIDEST)
        if self._bar is None:
            self._bar = tqdm(
                total=total, initial=done, file=sys.stdout, disable=False, desc=words,
                mininterval=_REDRAW, miniters=1, nrows=_ROWS, **_shape(words, room),
            )  # fmt: skip
            self._redirect()
        else:
            shape = _shape(words, room)
            self._bar.ncols, self._bar.bar_format = shape["ncols"], shape["bar_format"]
            self._bar.set_description_str(words, refresh=False)
            self._bar.update(done - self._bar.n)

    def _redirect(self) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            self._stderr = sys.stderr
            sys.stderr = _Above(self._stderr, self._bar)


class _Above:
    """Standard error while there is a bar below: holds what is no whole line yet."""

    def __init__(self, stream: TextIO, bar: tqdm):
        self._stream, self._bar, self._held = stream, bar, ""

    def write(self, text: str) -> int:
        lines, newline, self._held = f"{self._held}{text}".rpartition("\n")
        if newline:
            self._bar.clear()
            self._stream.write(f"{lines}\n")
            self._stream.flush()
            self._bar.refresh()
        return len(text)

    def close(self) -> None:
        """Writes what is left."""
        if self._held:
            self.write("\n")

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def fitted(facts: Sequence[str], spare: Sequence[int], columns: int) -> str:
    """As many of the facts as fit; what is left of one that never does."""
    left = dict(enumerate(facts))
    for place in spare:
        if len(_GAP.join(left.values())) <= columns:
            break
        del left[place]
    return _GAP.join(left.values())[:columns]


def _shape(words: str, room: int) -> dict:
    if room < _NARROWEST:
        return {"ncols": max(1, len(words)), "bar_format": "{desc}"}
    return {"ncols": len(words) + len(_GAP) + room, "bar_format": "{desc}" + _GAP + "|{bar}|"}


def _columns() -> int:
    """Of the terminal as it is now, less _SPARE; at least 1."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        found = 0
    return max(1, (found or _UNKNOWN) - _SPARE)
