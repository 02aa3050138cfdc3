"""The trigger word of a set."""

import pytest

from lora2_core.diffusion.captions import with_trigger


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
