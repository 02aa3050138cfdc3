"""A bar on a terminal, which a pty is, and plain lines where there is none."""

import fcntl
import os
import re
import struct
import sys
import termios
import threading

import pytest

from lora2_core.commands.bar import fitted
from lora2_core.commands.progress import Counter, Progress
from lora2_core.training.result import StepInfo


class Terminal:
    """Within the block sys.stdout and sys.stderr are a terminal; `said` is all that it got."""

    def __init__(self, columns, encoding="utf-8"):
        self._columns, self._encoding = columns, encoding
        self._got = bytearray()

    def __enter__(self):
        self._ours, theirs = os.openpty()
        size = struct.pack("HHHH", 24, self._columns, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._before = sys.stdout, sys.stderr
        self._stream = open(theirs, "w", encoding=self._encoding)
        sys.stdout = sys.stderr = self._stream
        return self

    def __exit__(self, *_):
        sys.stdout, sys.stderr = self._before
        self._stream.close()
        self._reader.join()
        os.close(self._ours)

    def _read(self):
        try:
            while data := os.read(self._ours, 4096):
                self._got += data
        except OSError:  # how Linux says that the other end is closed
            pass

    @property
    def said(self):
        return self._got.decode(self._encoding).replace("\r\n", "\n")


def screen(said):
    """The lines that are left to see."""
    lines = []
    for line in said.split("\n"):
        shown = ""
        for part in re.sub(r"\x1b\[A", "", line).split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


@pytest.fixture(autouse=True)
def usual(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def counted(encoding="utf-8", columns=80, error=None):
    with Terminal(columns, encoding) as terminal:
        with Counter("merging") as counter:
            for done in range(1, 41):
                counter(done, 40)
                if done == 20:
                    print("warning: a word between", file=sys.stderr)
                    if error is not None:
                        raise error
        print("saved x")
    return terminal.said


def test_a_count_is_a_bar_that_goes_when_it_is_done():
    said = counted()
    assert "merging 1/40  |" in said and "█" in said and "\r" in said
    assert [line for line in screen(said) if line] == ["warning: a word between", "saved x"]


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "latin-1"])
def test_the_bar_is_drawn_in_signs_that_the_terminal_has(encoding):
    said = counted(encoding)
    assert "merging 1/40  |" in said and "#" in said


@pytest.mark.parametrize("columns", [1, 7, 12, 25, 200])
def test_no_line_is_wider_than_the_terminal(columns):
    for line in re.split(r"[\r\n]", counted(columns=columns)):
        words = re.sub(r"\x1b\[.", "", line).rstrip()
        assert len(words) < max(2, columns) or words in ("warning: a word between", "saved x")


def test_no_escapes_of_colour():
    assert not re.search(r"\x1b\[[\d;]*m", counted())


@pytest.mark.parametrize("variable", ["TERM", "pipe"])
def test_without_a_terminal_there_are_plain_lines(monkeypatch, capsys, variable):
    if variable == "TERM":
        monkeypatch.setenv("TERM", "dumb")
        said = counted()
    else:
        with Counter("merging") as counter:
            for done in range(1, 41):
                counter(done, 40)
        said = capsys.readouterr().out
    assert "\r" not in said and "|" not in said
    assert [line for line in said.split("\n") if line.startswith("merging")] == [
        f"merging {done}/40" for done in range(4, 41, 4)
    ]


def step(number, steps=10):
    return StepInfo(number, steps, 1.0, None, (4, 4), 1000, 2.0 * number)


def test_a_training_stays_on_the_screen_and_a_narrow_one_keeps_the_step():
    for columns, found in ((120, "step 10/10  loss"), (22, "step 10/10")):
        with Terminal(columns) as terminal:
            with Progress() as progress:
                for number in range(1, 11):
                    progress(step(number))
            print("saved x")
        *_, bar, last, end = screen(terminal.said)
        assert bar.startswith(found) and (last, end) == ("saved x", "")


def test_after_an_error_the_bar_shows_how_far_it_came():
    with Terminal(80) as terminal, pytest.raises(KeyboardInterrupt), Counter("merging") as counter:
        for done in range(1, 21):
            counter(done, 40)
        raise KeyboardInterrupt
    assert any(line.startswith("merging 20/40") for line in screen(terminal.said))


def test_what_does_without_goes_first():
    facts = ["step 1/9", "loss 0.1", "mean rank 4.0"]
    assert fitted(facts, (2, 1), 80) == "step 1/9  loss 0.1  mean rank 4.0"
    assert fitted(facts, (2, 1), 20) == "step 1/9  loss 0.1"
    assert fitted(facts, (2, 1), 4) == "step"
