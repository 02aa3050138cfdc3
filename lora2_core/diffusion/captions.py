"""What is done to captions before they are encoded."""

import re


def with_trigger(caption: str, word: str) -> str:
    """`word, caption`; the caption itself if it has the word already, or there is none.

    The word is looked for as a whole and in any case, as CLIP's tokenizer has no capitals.
    """
    if not word or re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{word}, {caption}"
