"""The trigger word of a set."""

import pytest

from lora2_core.diffusion.captions import decoded, with_trigger
from lora2_core.errors import LoRA2Error


@pytest.mark.parametrize(
    ("caption", "word", "wanted"),
    [
        ("a dog", "", "a dog"),
        ("a dog", "sks", "sks, a dog"),
        ("a SKS dog", "sks", "a SKS dog"),
        ("sks", "sks", "sks"),
        ("a sksy dog", "sks", "sks, a sksy dog"),  # only whole words count
        ("a dog in c++", "c++", "a dog in c++"),  # no pattern
        ("a dog", "my dog.", "my dog., a dog"),
    ],
)
def test_the_word_goes_before_captions_that_lack_it(caption, word, wanted):
    assert with_trigger(caption, word) == wanted


def test_an_empty_caption_is_the_word_alone():
    assert with_trigger("", "sks") == "sks"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark", "utf-16-be with mark"]
)
@pytest.mark.parametrize("text", ["", "a dog", "Füße – 犬 🐕", "one,\ntwo"])
def test_a_caption_in_unicode(encoding, text):
    name, _, mark = encoding.partition(" with ")
    data = (f"\ufeff{text}" if mark else text).encode(name)
    assert decoded(data) == text


def test_space_around_a_caption_is_no_part_of_it():
    assert decoded(b"\r\n a dog \n") == "a dog"
    assert decoded("\ufeff\n".encode("utf-16-le")) == ""


@pytest.mark.parametrize(
    "data",
    [
        "café".encode("cp1252"),
        "犬".encode("shift-jis"),
        "a dog".encode("utf-16-le"),
        "a dog".encode("utf-16-be"),
        "a dog".encode("utf-32"),
        b"\xff\xfea",
        b"\xff\xfe\x00\xd8",
        b"\xed\xa0\x80",
    ],
)
def test_a_caption_in_another_encoding_is_refused(data):
    with pytest.raises(LoRA2Error, match="UTF-8"):
        decoded(data)
