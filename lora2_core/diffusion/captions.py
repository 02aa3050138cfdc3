"""What is done to captions before they are encoded."""

import codecs
import re

from ..errors import LoRA2Error


def decoded(data: bytes) -> str:
    """The text of a caption file: UTF-16 if it begins with its mark, else UTF-8, with or without.

    Space around it is cut off, so that an empty file is the empty caption. Raises LoRA2Error for
    any other encoding, and for NUL, which UTF-16 without its mark is full of.
    """
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")  # which takes the mark off
        else:
            text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LoRA2Error(f"is neither UTF-8 nor UTF-16 with its mark ({error.reason})") from None
    if "\0" in text:
        raise LoRA2Error("is neither UTF-8 nor UTF-16 with its mark (it holds NUL)")
    return text.strip()


def with_trigger(caption: str, word: str) -> str:
    """`word, caption`; the caption itself if it has the word already, or there is none.

    The word is looked for as a whole and in any case, as CLIP's tokenizer has no capitals. It
    stands alone for an empty caption.
    """
    if not word or re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{word}, {caption}" if caption else word
