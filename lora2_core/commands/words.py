"""Words that are given on the command line, for captions and metadata."""

import argparse
import os


def words(given: str) -> str:
    """A `type` for argparse. In the C locale, which knows ASCII alone, UTF-8 is read as what it is.

    Raises ArgumentTypeError for what is no text; at the end of a training it would be too late.
    """
    try:
        return os.fsencode(given).decode("utf-8") if _has_bytes(given) else given
    except UnicodeError:
        raise argparse.ArgumentTypeError(
            f"{given} is not text in the encoding of this terminal; give it in UTF-8 or in ASCII"
        ) from None


def _has_bytes(given: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in given)
