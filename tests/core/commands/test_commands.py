"""The command line, as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stopping import stopped_at
from tiny_pipeline import write_checkpoint, write_folder, write_tokenizer

from lora2_core.__main__ import COMMANDS, main
from lora2_core.backbones.pictures import read_folder
from lora2_core.files.adapter_file import components, read

QUICK = ["--steps", "3", "--preset", "small", "--dtype", "fp32", "--resolution", "64"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index, size in enumerate([(80, 64), (64, 96), (70, 70)]):
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def train(model, images, out, *more):
    given = ["--model", str(model), "--images", str(images), "--out", str(out), *QUICK, *more]
    return main(["train", *given])


def test_training_on_a_diffusers_folder(model, images, tmp_path, capsys):
    out = tmp_path / "new" / "dog.safetensors"
    assert train(model, images, out, "--prompt", "a sks dog", "--trigger-words", "sks dog") == 0
    said = capsys.readouterr().out
    assert "step 3/3" in said and "mean rank" in said and str(out) in said
    state = load_file(out)
    ups = [name for name in state if name.endswith("lora_up.weight")]
    assert len(ups) == 2 * 2 * 4 * (1 + 2)  # 2 blocks deep, 2 attentions of 4, 1 level down, 2 up
    assert any(state[name].abs().max() > 0 for name in ups)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_num_train_images"] == "3"
    assert metadata["modelspec.resolution"] == "64x64"
    assert "sks dog" in metadata["modelspec.trigger_phrase"]


def test_the_same_seed_gives_the_same_adapter(model, images, tmp_path):
    for name in ("one", "two"):
        assert train(model, images, tmp_path / f"{name}.safetensors", "--prompt", "a dog") == 0
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert all((one[name] == two[name]).all() for name in one)


@pytest.mark.parametrize("method", ["lora", "ac_lora"])
def test_other_methods(model, images, tmp_path, method):
    out = tmp_path / "x.safetensors"
    assert train(model, images, out, "--prompt", "a dog", "--method", method, "--r-init", "4") == 0
    report = inspected(out)
    assert report["method"] == method
    assert report["totals"]["max_rank"] <= 4


def inspected(file):
    found = subprocess.run(
        [sys.executable, "-m", "lora2_core", "inspect", str(file), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(found.stdout)


def test_a_single_file_checkpoint(images, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "koala.safetensors")
    words = write_tokenizer(tmp_path / "words")
    out = tmp_path / "x.safetensors"
    assert train(checkpoint, images, out, "--prompt", "a dog", "--tokenizer", str(words)) == 0
    assert inspected(out)["totals"]["components"] == 168  # KOALA's attention projections


def test_prior_images_change_the_result(model, images, tmp_path):
    plain, prior = tmp_path / "plain.safetensors", tmp_path / "prior.safetensors"
    assert train(model, images, plain, "--prompt", "a sks dog") == 0
    more = ["--prompt", "a sks dog", "--prior-images", str(images), "--prior-prompt", "a dog"]
    assert train(model, images, prior, *more) == 0
    one, two = load_file(plain), load_file(prior)
    assert any(one[name].shape != two[name].shape or (one[name] != two[name]).any() for name in one)


def test_a_caption_file_goes_before_the_prompt(images):
    (images / "1.txt").write_text("a dog on grass\n")
    found = read_folder(images, "a dog", 64)
    assert [caption for _, caption in found.pictures] == ["a dog", "a dog on grass", "a dog"]
    assert {picture.size for picture, _ in found.pictures} == {(64, 64)}


def test_an_unreadable_picture_is_named_and_skipped(model, images, tmp_path, capsys):
    (images / "0.png").write_bytes(b"not a picture")
    out = tmp_path / "x.safetensors"
    assert train(model, images, out, "--prompt", "a dog") == 0
    said = capsys.readouterr()
    assert "skipped 0.png" in said.err
    assert "2 pictures in" in said.out


def test_a_rotated_photograph_is_turned_upright(tmp_path):
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("black", (0, 0, 64, 32))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to show
    picture.save(tmp_path / "x.png", exif=exif)
    [(shown, _)] = read_folder(tmp_path, "x", 64).pictures
    pixels = np.asarray(shown)[..., 0]
    assert pixels[:, 40:].max() == 0 and pixels[:, :24].min() == 255


def refused(capsys, code=2):
    assert code == 2
    said = capsys.readouterr().err
    *_, last = said.splitlines()  # libraries draw their bars before
    assert last.startswith("error: ")
    return last


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--prompt", "a dog", "--resolution", "100"], "resolution is 100"),
        (["--prompt", "a dog", "--steps", "0"], "steps is 0"),
        (["--prompt", "a dog", "--r-init", "64", "--r-max", "8"], "r_init is 64"),
        (["--prompt", "a dog", "--prior-prompt", "a dog"], "prior-images"),
        (["--prompt", "a dog", "--device", "abacus"], "abacus"),
        ([], "0.png has no caption"),
    ],
)
def test_bad_settings_are_named(model, images, tmp_path, capsys, more, named):
    out = tmp_path / "x.safetensors"
    assert named in refused(capsys, train(model, images, out, *more))
    assert not out.exists()


def test_bad_paths_are_named(model, images, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    prompt = ["--prompt", "a dog"]
    assert "nowhere" in refused(capsys, train(tmp_path / "nowhere", images, out, *prompt))
    assert "nowhere" in refused(capsys, train(model, tmp_path / "nowhere", out, *prompt))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no pictures" in refused(capsys, train(model, empty, out, *prompt))
    (empty / "a.jpg").write_bytes(b"x")
    assert "none of the 1 pictures" in refused(capsys, train(model, empty, out, *prompt))
    odd = tmp_path / "x.ckpt"
    assert ".safetensors" in refused(capsys, train(model, images, odd, *prompt))
    beneath_a_file = empty / "a.jpg" / "x.safetensors"
    assert "cannot be made" in refused(capsys, train(model, images, beneath_a_file, *prompt))


def test_an_existing_file_is_refused_before_training(model, images, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"precious")
    assert "exists already" in refused(capsys, train(model, images, out, "--prompt", "a dog"))
    assert out.read_bytes() == b"precious"


def test_a_loss_that_breaks_keeps_what_was_good(model, images, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    code = train(model, images, out, "--prompt", "a dog", "--learning-rate", "1e30")
    said = refused(capsys, code)
    assert "learning rate" in said and "x_run, up to step" in said
    assert not out.exists()
    (kept,) = (p for p in (tmp_path / "x_run").iterdir() if ".state." not in p.name)
    assert inspected(kept)["totals"]["components"] == 48


def test_a_run_that_is_stopped_goes_on(model, images, tmp_path, capsys):
    whole, out = tmp_path / "whole.safetensors", tmp_path / "x.safetensors"
    more = ("--prompt", "a dog", "--steps", "6", "--precision", "fp32")
    assert train(model, images, whole, *more) == 0

    with stopped_at(4):
        said = refused(capsys, train(model, images, out, *more))
    assert "stopped" in said and "up to step 4" in said and not out.exists()
    assert "--resume to go on" in refused(capsys, train(model, images, out, *more))
    other = refused(capsys, train(model, images, out, *more, "--resume", "--seed", "5"))
    assert "seed was" in other
    assert train(model, images, out, *more, "--resume") == 0
    assert "goes on after step 4" in capsys.readouterr().out
    one, two = load_file(whole), load_file(out)
    assert all(torch.equal(one[key], two[key]) for key in one)

    longer = tmp_path / "longer.safetensors"
    more = (*more[:3], "9", "--resume", str(tmp_path / "x_run"))
    assert train(model, images, longer, *more) == 0
    assert inspected(longer)["method"] == "lora2"
    nothing = tmp_path / "nothing.safetensors"
    assert "no run in" in refused(capsys, train(model, images, nothing, *more[:4], "--resume"))


# diffusers' schedulers hand tensors to numpy in a way that the two of them will have to mend
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_weights_that_wait_in_main_memory_give_the_same_file_and_pictures(
    model, images, tmp_path, capsys
):
    """But for roundings: a file's weights lie in memory as they lay in it, copies as is best."""
    stays, waits = tmp_path / "stays.safetensors", tmp_path / "waits.safetensors"
    more = ("--prompt", "a dog", "--sample-prompt", "a dog", "--sample-steps", "2")
    assert train(model, images, stays, *more) == 0
    assert "in main memory" not in capsys.readouterr().out
    assert train(model, images, waits, *more, "--offload", "all") == 0
    assert "of it wait in main memory" in capsys.readouterr().out
    one, two = components(read(stays)), components(read(waits))
    assert one.keys() == two.keys()
    for name, factors in one.items():
        delta = factors.delta()
        assert (two[name].delta() - delta).norm() <= 0.01 * delta.norm(), name
    drawn = [tmp_path / f"{name}_run" / "previews" for name in ("stays", "waits")]
    pictures = [sorted(folder.glob("*.png")) for folder in drawn]
    assert pictures[0] and [p.name for p in pictures[0]] == [p.name for p in pictures[1]]
    for pair in zip(*pictures, strict=True):
        pixels = [np.asarray(Image.open(path)).astype(int) for path in pair]
        assert abs(pixels[0] - pixels[1]).max() <= 2


def test_inspect_reads_what_peft_wrote_and_names_what_is_broken(tmp_path, capsys):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(os.urandom(64))
    assert "broken.safetensors" in refused(capsys, main(["inspect", str(broken)]))
    assert "missing.safetensors" in refused(
        capsys, main(["inspect", str(tmp_path / "missing.safetensors")])
    )


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    state = {}
    for i in range(4000):
        state[f"lora_unet_layer_{i}.lora_down.weight"] = torch.ones(1, 2)
        state[f"lora_unet_layer_{i}.lora_up.weight"] = torch.ones(2, 1)
    save_file(state, tmp_path / "long.safetensors")
    command = f"{sys.executable} -m lora2_core inspect long.safetensors | head -1"
    root = Path(__file__).parents[3]
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "long.safetensors: 4000 components, 0.06 MB\n"


def test_every_command_explains_itself(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "--" in capsys.readouterr().out
