"""A folder of pictures and captions, with what other trainers put there."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lora2_core.backbones.pictures import read_folder
from lora2_core.errors import LoRA2Error


def draw(path, colour=(200, 0, 0), size=(40, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "PNG")
    return path


def captions(folder, prompt="a dog"):
    return [caption for _, caption in read_folder(folder, prompt, 32).pictures]


def refused(folder, prompt=None):
    with pytest.raises(LoRA2Error) as error:
        read_folder(folder, prompt, 32)
    return str(error.value)


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=4),
    st.sampled_from([8, 32, 64]),
    st.integers(0, 2**32 - 1),
)
def test_ordinary_folders_are_read_as_ever(tmp_path_factory, sizes, side, seed):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(seed)
    kinds = (("png", {}), ("jpg", {}), ("webp", {"lossless": True}), ("bmp", {}), ("TIFF", {}))
    for size in sizes:
        name = "".join(rng.choice(list("abAB1 _"), 6)) + "x"
        ending, choices = kinds[rng.integers(len(kinds))]
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.{ending}", **choices)
    wanted = []
    for file in sorted(folder.iterdir()):
        with Image.open(file) as image:
            picture = ImageOps.exif_transpose(image).convert("RGB")
        wanted.append(ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS).tobytes())
    found = read_folder(folder, "a dog", side)
    assert [picture.tobytes() for picture, _ in found.pictures] == wanted
    assert (found.skipped, found.remarks) == ([], [])
    assert found.repeats == [1] * len(wanted)


def test_endings_and_hidden_files(tmp_path):
    for name in ("a.PNG", "b.Jpg", "c.GIF", "d.tif", "._a.PNG", ".hidden.png", "e.jfif"):
        draw(tmp_path / name)
    for name in ("._a.txt", "Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\xff")
    draw(tmp_path / ".ipynb_checkpoints" / "a.png")
    found = read_folder(tmp_path, "a dog", 32)
    assert len(found.pictures) == 5
    assert (found.skipped, found.remarks) == ([], [])


def test_what_cannot_be_read_is_skipped_by_name(tmp_path):
    draw(tmp_path / "good.png")
    (tmp_path / "zero.png").touch()
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    found = read_folder(tmp_path, "a dog", 32)
    assert len(found.pictures) == 1
    cut, zero = found.skipped
    assert cut.startswith("cut.png: ") and "truncated" in cut
    assert zero.startswith("zero.png: ") and "empty" in zero
    (tmp_path / "good.png").unlink()
    said = refused(tmp_path, "a dog")
    assert "none of the 2 pictures" in said and "cut.png" in said and "zero.png" in said


def test_what_is_chosen_is_said(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = read_folder(tmp_path, "a dog", 32)
    assert found.remarks == ["a.gif holds 2 pictures; the first is taken"]


def test_captions_in_every_encoding(tmp_path):
    text = "ein Hund, 犬 – “x”"
    for name, encoding in (("a", "utf-8"), ("b", "utf-8-sig"), ("c", "utf-16")):
        draw(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"{text}\n", encoding=encoding)
    draw(tmp_path / "d.png")
    (tmp_path / "d.txt").write_bytes(b"\xfe\xff" + text.encode("utf-16-be"))
    assert captions(tmp_path) == [text] * 4


def test_all_captions_that_cannot_be_read_are_named_at_once(tmp_path):
    for index in range(30):
        draw(tmp_path / f"{index:02}.png")
        encoding = "cp1252" if index % 2 else "utf-8"
        (tmp_path / f"{index:02}.txt").write_text("café", encoding=encoding)
    draw(tmp_path / "alone.png")
    said = refused(tmp_path)
    named = re.findall(r"[0-9]+\.txt", said)
    assert named == [f"{index:02}.txt" for index in range(1, 30, 2)]
    assert said.startswith("15 caption files") and "save them as UTF-8" in said
    assert "alone.png has no caption" in said


def test_all_pictures_without_a_caption_are_named_at_once(tmp_path):
    for index in range(30):
        draw(tmp_path / f"{index:02}.png")
    (tmp_path / "07.txt").write_text("a dog")
    (tmp_path / "08.png").write_bytes(b"broken")
    said = refused(tmp_path)
    assert {f"{index:02}.png" for index in range(30)} - {"07.png", "08.png"} <= set(
        re.findall(r"[0-9]+\.png", said)
    )
    assert "07" not in said and "prompt" in said and "00.txt" in said
    assert refused(tmp_path, "") == said


def test_what_cannot_be_read_needs_no_caption(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a dog")
    (tmp_path / "broken.png").write_bytes(b"broken")
    found = read_folder(tmp_path, None, 32)
    assert [caption for _, caption in found.pictures] == ["a dog"]
    assert len(found.skipped) == 1


def test_an_empty_file_is_the_empty_caption(tmp_path):
    for name, text in (("a", b""), ("b", b"\n "), ("c", b"\xef\xbb\xbf")):
        draw(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(text)
    assert captions(tmp_path) == captions(tmp_path, None) == [""] * 3


def test_where_captions_are_from_is_said(tmp_path):
    for name in "abc":
        draw(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a dog on grass")
    said = read_folder(tmp_path, "a dog", 32).said
    assert said == [f"3 pictures in {tmp_path}", "captions: 1 from files, 2 from the prompt"]


def test_names_of_captions(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for name, text in (("a", "a.TXT"), ("b", "b.caption"), ("c", "c.png.txt"), (nfd, f"{nfc}.txt")):
        draw(tmp_path / f"{name}.png")
        (tmp_path / text).write_text(text)
    assert captions(tmp_path, None) == ["a.TXT", "b.caption", "c.png.txt", f"{nfc}.txt"]


def test_two_captions_of_one_picture(tmp_path):
    draw(tmp_path / "a.png")
    for ending in ("txt", "caption"):
        (tmp_path / f"a.{ending}").write_text(ending)
    (tmp_path / "b.txt").write_text("of no picture")
    found = read_folder(tmp_path, None, 32)
    assert [caption for _, caption in found.pictures] == ["txt"]
    lonely, chosen = sorted(found.remarks, key=len)
    assert "a.png: a.txt is its caption, not a.caption" in (lonely, chosen)
    assert "captions that belong to no one picture: b.txt" in (lonely, chosen)


def test_folders_of_kohya(tmp_path):
    draw(tmp_path / "z.png")
    draw(tmp_path / "10_sks dog" / "a.png")
    draw(tmp_path / "10_sks dog" / "b.png")
    (tmp_path / "10_sks dog" / "b.txt").write_text("a sks dog runs")
    draw(tmp_path / "1_dog" / "a.png")
    (tmp_path / "1_dog" / "bad.png").touch()
    (tmp_path / "z.txt").write_text("z")
    found = read_folder(tmp_path, None, 32)
    assert [caption for _, caption in found.pictures] == ["z", "sks dog", "a sks dog runs", "dog"]
    assert found.repeats == [1, 10, 10, 1]
    assert found.skipped[0].startswith("1_dog/bad.png: ")
    assert found.said == [
        f"4 pictures in {tmp_path}",
        "2 of them in 10_sks dog, each 10 times in a pass",
        "1 of them in 1_dog, each once in a pass",
        "captions: 2 from files, 0 from the prompt, 2 from the names of sub-folders",
    ]
    assert captions(tmp_path, "a pet") == ["z", "a pet", "a sks dog runs", "a pet"]


def test_other_folders_are_named_with_their_count(tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "img" / "10_dog" / "a.png")
    draw(tmp_path / "img" / "10_dog" / "b.png")
    draw(tmp_path / "20240131_holiday" / "a.png")
    draw(tmp_path / "0_none" / "a.png")
    draw(tmp_path / "3_cat" / "deeper" / "a.png")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "events").touch()
    found = read_folder(tmp_path, "a dog", 32)
    assert len(found.pictures) == 1
    none, date, deep, img = found.remarks
    assert "1 picture is left out in the folder 0_none" in none and "0 repeats" in none
    assert "20240131_holiday" in date and "20240131 repeats" in date
    assert "1 picture is left out in the folder 3_cat/deeper" in deep
    assert "2 pictures are left out in the folder img" in img


def test_a_folder_of_folders_alone_says_where_the_pictures_are(tmp_path):
    draw(tmp_path / "img" / "a.png")
    said = refused(tmp_path, "a dog")
    assert "holds no pictures" in said and "1 picture is left out in the folder img" in said


def test_masks_are_not_learned_from(tmp_path):
    for name in ("a", "a-masklabel", "b", "b_mask", "red_mask", "c-masklabel", "a-condlabel"):
        draw(tmp_path / f"{name}.png")
    found = read_folder(tmp_path, "a dog", 32)
    assert len(found.pictures) == 3  # a, b, and the picture of a red mask
    (remark,) = found.remarks
    assert remark.startswith("masks are not used")
    for name in ("a-masklabel.png", "b_mask.png", "c-masklabel.png", "a-condlabel.png"):
        assert name in remark
    assert "red_mask" not in remark


def test_other_files_are_counted(tmp_path):
    draw(tmp_path / "a.png")
    for name in ("a.npz", "b.npz", "c.mp4", "photo"):
        (tmp_path / name).touch()
    found = read_folder(tmp_path, "a dog", 32)
    (remark,) = found.remarks
    assert "1 .mp4, 2 .npz, 1 without an ending" in remark
