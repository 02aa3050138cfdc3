"""Other libraries have no word on a user's screen, and our own log speaks as commands do."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .streams import warn

_LIBRARIES = ("diffusers", "transformers")
_OURS = __name__.partition(".")[0]


class _Spoken(logging.Handler):
    """The log as warnings of the command; a traceback would say nothing to its user."""

    def emit(self, record: logging.LogRecord) -> None:
        cause = f" ({record.exc_info[1]})" if record.exc_info else ""
        warn(f"{record.getMessage()}{cause}")


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, diffusers and transformers log errors alone, no library's warnings are
    printed, and what this pack logs is said as a warning.

    A user who has set DIFFUSERS_VERBOSITY or TRANSFORMERS_VERBOSITY, or Python's warnings (-W,
    PYTHONWARNINGS), hears what was asked for.
    """
    ours, spoken = logging.getLogger(_OURS), _Spoken(logging.WARNING)
    ours.addHandler(spoken)
    with ExitStack() as stack:
        stack.callback(ours.removeHandler, spoken)
        for library in _LIBRARIES:
            stack.enter_context(_hushed(library))
        stack.enter_context(warnings.catch_warnings())
        if not sys.warnoptions:
            warnings.showwarning = _pass_over
        yield


@contextmanager
def without_bars() -> Iterator[None]:
    """Within the block, the libraries that are imported by now draw no bars."""
    with ExitStack() as stack:
        for library in _LIBRARIES:
            settings = sys.modules.get(f"{library}.utils.logging")
            if settings is not None and settings.is_progress_bar_enabled():
                settings.disable_progress_bar()
                stack.callback(settings.enable_progress_bar)
        yield


def _pass_over(*_, **__) -> None:
    """In place of warnings.showwarning; a filter that makes errors of warnings still does."""


@contextmanager
def _hushed(library: str) -> Iterator[None]:
    variable = f"{library.upper()}_VERBOSITY"
    if os.environ.get(variable):
        yield
        return
    settings = sys.modules.get(f"{library}.utils.logging")
    before = None
    if settings is not None:
        before = settings.get_verbosity()
        settings.set_verbosity_error()
    os.environ[variable] = "error"  # is read when the library is imported, which may be later
    try:
        yield
    finally:
        del os.environ[variable]
        settings = sys.modules.get(f"{library}.utils.logging")
        if settings is not None:
            settings.set_verbosity(logging.WARNING if before is None else before)
