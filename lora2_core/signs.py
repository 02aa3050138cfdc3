"""Text for streams whose encoding lacks some of its characters."""

import codecs
import os

SIGNS = {
    "→": "->",
    "←": "<-",
    "×": "x",
    "·": "-",
    "…": "...",
    "−": "-",
    "–": "-",
    "≤": "<=",
    "≥": ">=",
    "√": "sqrt ",
    "°": " degrees",
    "Σ": "sum ",
    "Δ": "Delta ",
    "Λ": "Lambda",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "ε": "epsilon",
    "λ": "lambda",
    "ν": "nu",
    "σ": "sigma",
} | {raised: f"^{number}" for number, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
ERRORS = "lora2"
ERRORS_AND_BYTES = "lora2_and_bytes"
_NAME = "LoRA"  # its ² is no power


def fitting(text: str, encoding: str) -> str:
    """The text as a stream of this encoding can carry it (see `replaced`)."""
    return text.encode(encoding, ERRORS).decode(encoding)


def readable(name: str) -> str:
    """A file's name as text that every encoding of Unicode takes: bytes that are no text as \\xe9.

    In the C locale, which knows ASCII alone, a name in UTF-8 comes back as what it is.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name


def replaced(error: UnicodeError) -> tuple[str, int]:
    """For codecs.register_error: what cannot be encoded, in ASCII, with nothing left out.

    A sign of the pack's own words is spelled out, "→" as "->". All else keeps its code, so that a
    file's name can still be told from another's: "é" as \\xe9, "狗" as \\u72d7, and as \\xe9, too,
    the byte of a name that is no text. Raises what is no error of encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text, found = error.object, []
    for place in range(error.start, error.end):
        letter = text[place]
        if _is_byte(letter):
            found.append(f"\\x{ord(letter) - 0xDC00:02x}")
        elif letter in SIGNS and _is_a_sign(text, place):
            named = letter == "²" and text[:place].endswith(_NAME)
            found.append("2" if named else SIGNS[letter])
        else:
            found.append(letter.encode("ascii", "backslashreplace").decode("ascii"))
    return "".join(found), error.end


def replaced_but_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """The same, but that the bytes of a name that is no text go out as they came in.

    For streams whose own way that was (surrogateescape, as in the C locale): what is said can then
    be read where the encoding was merely unknown.
    """
    if isinstance(error, UnicodeEncodeError) and not _is_wide(error.encoding):
        text, end = error.object, error.start
        first = _is_byte(text[end])
        while end < error.end and _is_byte(text[end]) == first:
            end += 1
        if first:
            return bytes(ord(letter) - 0xDC00 for letter in text[error.start : end]), end
        error.end = end
    return replaced(error)


def _is_byte(letter: str) -> bool:
    """Python's stand-in for a byte that it could not decode (PEP 383)."""
    return "\udc80" <= letter <= "\udcff"


def _is_a_sign(text: str, place: int) -> bool:
    """Not a letter of a Greek word, say: nothing but signs and ASCII touches it."""
    begin = end = place
    while begin > 0 and not text[begin - 1].isascii():
        begin -= 1
    while end < len(text) and not text[end].isascii():
        end += 1
    return all(letter in SIGNS for letter in text[begin:end])


def _is_wide(encoding: str) -> bool:
    return encoding.lower().startswith(("utf-16", "utf-32", "utf_16", "utf_32"))


codecs.register_error(ERRORS, replaced)
codecs.register_error(ERRORS_AND_BYTES, replaced_but_bytes)
