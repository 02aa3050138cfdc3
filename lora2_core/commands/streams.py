"""Where a command speaks: streams of any encoding, closed ones, and those that take no more."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TextIO

from ..signs import ERRORS, ERRORS_AND_BYTES, fitting

_CHOSEN = ("xmlcharrefreplace", "namereplace")  # a user's own way to lose nothing
_UNHEARD = (errno.EPIPE, errno.EINVAL)  # the second is Windows' word for a pipe that is closed


def warn(text: str) -> None:
    """Says what went wrong without stopping anything."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


class Guarded:
    """A text stream that never raises for what it cannot take; failure: the first error, or None.

    After it nothing is written any more, so that the work behind the words goes on.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        if self.failure is None:
            with self._noting():
                try:
                    self._stream.write(text)
                except UnicodeError:  # of a stream whose errors cannot be set
                    self._stream.write(fitting(text, "ascii"))
        return len(text)

    def flush(self) -> None:
        if self.failure is None:
            with self._noting():
                self._stream.flush()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            self._drain()

    def _drain(self) -> None:
        """Lets what is buffered go nowhere; Python would try once more when it ends."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


class Streams:
    """Standard output and standard error, guarded."""

    def __init__(self, out: Guarded, err: Guarded):
        self._out, self._err = out, err

    def code(self, code: int) -> int:
        """The exit code: 2 in place of 0 if standard output could not be written.

        A reader that has seen enough, such as `head`, is no error.
        """
        self._out.flush()
        failure = self._out.failure
        if failure is not None and failure.errno not in _UNHEARD and code == 0:
            print(
                f"error: standard output cannot be written ({failure.strerror}); free some space "
                "or send it elsewhere. All else that was asked for is done",
                file=self._err,
            )
            code = 2
        self._err.flush()
        return code


@contextmanager
def guarded() -> Iterator[Streams]:
    """Within the block, sys.stdout and sys.stderr take any text and never raise.

    What their encoding lacks is replaced (signs.replaced), unless the user has chosen another way
    that loses nothing. One that is closed leads nowhere.
    """
    with ExitStack() as stack:
        stack.enter_context(_taken_descriptors())
        before = sys.stdout, sys.stderr
        out, err = (Guarded(stack.enter_context(_readable(stream))) for stream in before)
        sys.stdout, sys.stderr = out, err
        try:
            yield Streams(out, err)
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before


@contextmanager
def _readable(stream: TextIO | None) -> Iterator[TextIO]:
    if stream is None:  # closed before Python began
        with open(os.devnull, "w", encoding="utf-8", errors=ERRORS) as nowhere:
            yield nowhere
        return
    before = getattr(stream, "errors", None)
    if not isinstance(stream, io.TextIOWrapper) or before in _CHOSEN:
        yield stream
        return
    with suppress(OSError):  # it flushes, and whoever writes next will see why it cannot
        stream.reconfigure(errors=ERRORS_AND_BYTES if before == "surrogateescape" else ERRORS)
    encoding = stream.encoding
    with suppress(OSError):
        if not _takes_errors(encoding):
            stream.reconfigure(encoding="ascii", errors=ERRORS)
    try:
        yield stream
    finally:
        with suppress(OSError):
            stream.reconfigure(encoding=encoding, errors=before)


def _takes_errors(encoding: str) -> bool:
    """Whether a codec lets others replace what it lacks; that of host names, say, does not."""
    try:
        fitting("²", encoding)
    except UnicodeError:
        return False
    return True


@contextmanager
def _taken_descriptors() -> Iterator[None]:
    """Keeps files that a command opens from getting the number of a standard stream that is closed:
    what a library prints there would end up in them.
    """
    held = []
    try:
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            held.append(number)
        os.close(number)
        yield
    finally:
        for number in held:
            os.close(number)
