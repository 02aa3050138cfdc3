"""The one error class of the domain, and what is said of a package that is not there."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class LoRA2Error(ValueError):
    """Something the user can mend. The message names the value and the way out."""


@contextmanager
def importing(package: str, what: str, otherwise: str) -> Iterator[None]:
    """Where the package cannot be imported within the block, raises LoRA2Error with the line that
    installs it for the Python that runs.

    what: needs it ("optimizer is prodigy"). otherwise: what to do without ("choose adamw").
    """
    try:
        yield
    except ImportError as error:
        raise LoRA2Error(
            f"{what}, but {package} cannot be used ({error}); run "
            f"`{sys.executable} -m pip install {package}`, or {otherwise}"
        ) from error
