"""What a folder of pictures becomes for a run."""

import argparse

import pytest
from PIL import Image

from lora2_core.__main__ import main
from lora2_core.commands import train_arguments
from lora2_core.commands.lesson import lesson


@pytest.fixture
def images(tmp_path):
    """Three pictures, of which two lie in a folder as kohya's trainer names them."""
    for name, colour in (("z", "red"), ("3_sks dog/a", "lime"), ("3_sks dog/b", "blue")):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), colour).save(path)
    (tmp_path / "images" / "z.txt").write_bytes("a red dog".encode("utf-8-sig"))
    return tmp_path / "images"


def learned(images, *more):
    parser = argparse.ArgumentParser()
    train_arguments.add_arguments(parser)
    given = ["--model", "demo", "--images", str(images), "--out", "x.safetensors", *more]
    options = parser.parse_args(given)
    return lesson(options, train_arguments.config_of(options))


def test_repeated_pictures_are_encoded_once_and_come_often(images, capsys):
    found = learned(images)
    z, *others = found.own
    assert len(others) == 6
    assert [id(e) for e in others] == [id(others[0])] * 3 + [id(others[3])] * 3
    assert len({id(e) for e in (z, others[0], others[3])}) == 3
    assert found.facts["train_images"] == 3
    said = capsys.readouterr().out
    assert f"3 pictures in {images}\n" in said
    assert "2 of them in 3_sks dog, each 3 times in a pass\n" in said
    assert "captions: 1 from files, 0 from the prompt, 2 from the names of sub-folders\n" in said


def test_repeats_go_with_mirror_images_and_with_the_prior(images):
    more = ["--horizontal-flip", "--prior-images", str(images), "--prior-prompt", "a dog"]
    found = learned(images, *more, "--caption-dropout", "0.5")
    assert len(found.own) == len(found.prior) == 14
    assert all(example.empty is not None for example in found.examples)


def test_what_is_left_out_is_said_on_the_command_line(images, tmp_path, capsys):
    (images / "bad.png").touch()
    Image.new("L", (64, 64)).save(images / "z-masklabel.png")
    (images / "more").mkdir()
    Image.new("RGB", (64, 64)).save(images / "more" / "a.png")
    out = tmp_path / "x.safetensors"
    given = ["--model", "demo", "--images", str(images), "--prompt", "a dog", "--out", str(out)]
    assert main(["train", *given, "--steps", "1", "--preset", "small"]) == 0
    said = capsys.readouterr()
    assert "skipped bad.png: is empty" in said.err
    assert "masks are not used, and not learned from: z-masklabel.png" in said.err
    assert "1 picture is left out in the folder more" in said.err
    assert f"3 pictures in {images}\n" in said.out
    assert "captions: 1 from files, 2 from the prompt" in said.out
    assert out.is_file()
