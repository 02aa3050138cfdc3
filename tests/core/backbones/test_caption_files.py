"""Which caption file belongs to which picture."""

import unicodedata
from pathlib import Path

import pytest

from lora2_core.backbones.caption_files import match

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def matched(pictures, texts):
    found = match([Path(p) for p in pictures], [Path(t) for t in texts])
    of = {picture.name: [text.name for text in used] for picture, used in found.texts.items()}
    return of, [text.name for text in found.lonely]


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        ("a.png", "a.txt"),
        ("a.png", "a.TXT"),
        ("a.png", "a.caption"),
        ("a.png", "a.Caption"),
        ("a.png", "a.png.txt"),
        ("a.PNG", "a.png.caption"),
        ("IMG_1.JPG", "img_1.txt"),
        ("a.b.png", "a.b.txt"),
        (f"{NFC}.png", f"{NFD}.txt"),
        (f"{NFD}.png", f"{NFC}.txt"),
        (f"{NFD}.png", f"{NFC}.png.txt"),
        (f"{NFD}.png", f"{NFC.upper()}.TXT"),
        ("straße.png", "STRASSE.txt"),
    ],
)
def test_names_that_belong_together(picture, text):
    assert matched([picture], [text]) == ({picture: [text]}, [])


@pytest.mark.parametrize("text", ["b.txt", "a.b.txt", "a.jpg.txt", "a..txt", "cafe.txt"])
def test_names_that_do_not(text):
    assert matched(["a.png", f"{NFC}.png"], [text]) == ({}, [text])


@pytest.mark.parametrize(
    "texts",
    [
        ["a.txt", "a.caption"],
        ["a.txt", "a.png.txt"],
        ["a.caption", "a.png.txt"],
        ["a.txt", "a.TXT"],
        ["a.txt", "A.txt"],
        ["a.png.txt", "A.txt"],
    ],
)
def test_the_one_that_fits_best_counts(texts):
    for order in (texts, texts[::-1]):
        assert matched(["a.png"], order) == ({"a.png": texts}, [])


def test_a_caption_of_two_pictures():
    both = {"a.png": ["a.txt"], "a.jpg": ["a.txt"]}
    assert matched(["a.png", "a.jpg"], ["a.txt"]) == (both, [])


def test_a_caption_goes_where_it_fits_best():
    own = {"a.png": ["a.txt"], "A.png": ["A.txt"]}
    assert matched(["A.png", "a.png"], ["A.txt", "a.txt"]) == (own, [])
    assert matched(["A.png", "a.png"], ["a.txt"]) == ({"a.png": ["a.txt"]}, [])
    own = {f"{NFC}.png": [f"{NFC}.txt"], f"{NFD}.png": [f"{NFD}.txt"]}
    assert matched(list(own), [f"{NFC}.txt", f"{NFD}.txt"]) == (own, [])
    doubled = {"a.png.jpg": ["a.png.txt"]}
    assert matched(["a.png", "a.png.jpg"], ["a.png.txt"]) == (doubled, [])


def test_a_caption_that_fits_two_equally_well_belongs_to_none():
    assert matched(["AB.png", "Ab.png"], ["ab.txt"]) == ({}, ["ab.txt"])
