"""Sample pictures of the commands: drawn with the adapter of their step, at no cost to it."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_pipeline import write_checkpoint, write_folder, write_tokenizer

from lora2_core.__main__ import main
from lora2_core.backbones.drawing import Drawing
from lora2_core.backbones.pipeline import load_folder
from lora2_core.commands import material
from lora2_core.demo_model.backbone import DemoBackbone
from lora2_core.layers.applied import applied

# diffusers' schedulers hand tensors to numpy in a way that the two of them will have to mend
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
QUICK = ["--steps", "4", "--preset", "small", "--dtype", "fp32", "--resolution", "64"]
QUICK += ["--learning-rate", "0.01"]  # at which two steps show
SAMPLED = ["--sample-prompt", "a sks dog", "--sample-every", "2", "--sample-steps", "2"]
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


def train(model, images, out, *more):
    given = ["--model", str(model), "--images", str(images), "--out", str(out), *QUICK]
    return main(["train", *given, "--prompt", "a dog", *more])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same(one, other):
    one, other = load_file(one), load_file(other)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def plain(model, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "x.safetensors"
    assert train(model, images, out) == 0
    return out


def test_samples_are_drawn_and_the_adapter_is_the_same(model, images, plain, tmp_path):
    out = tmp_path / "x.safetensors"
    before = torch.get_rng_state()
    assert train(model, images, out, *SAMPLED, "--sample-negative", "blurry") == 0
    assert torch.equal(torch.get_rng_state(), before)
    assert same(out, plain)
    folder = tmp_path / "x_run" / "previews"
    assert names(folder) == ["sheet.png", "step_000002.png", "step_000004.png"]
    pictures = []
    for step in (2, 4):
        with Image.open(folder / f"step_{step:06d}.png") as picture:
            assert picture.size == (64, 64)
            pictures.append(picture.tobytes())
    assert pictures[0] != pictures[1]


def test_a_single_file_checkpoint_draws_two_prompts(images, tmp_path):
    file = write_checkpoint(tmp_path / "tiny.safetensors")
    words = write_tokenizer(tmp_path / "words")
    more = ("--tokenizer", str(words), *SAMPLED, "--sample-prompt", "a cat")
    assert train(file, images, tmp_path / "x.safetensors", *more) == 0
    found = names(tmp_path / "x_run" / "previews")
    assert found[1:] == [f"step_{step:06d}_{i}.png" for step in (2, 4) for i in (1, 2)]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["folder", "demo"])
def test_a_painter_follows_the_weights_and_repeats_itself(model, kind, guidance):
    side = 64 if kind == "folder" else 128
    drawing = Drawing(("a red boot",), None, 3, 3, guidance, side)
    backbone = load_folder(model, **CPU) if kind == "folder" else DemoBackbone()
    paint = backbone.painter(drawing)
    backbone.forget_encoders()
    denoiser = backbone.denoiser
    name, layer = next(
        (n, m) for n, m in denoiser.network.named_modules() if n.endswith("attn2.to_v")
    )
    down = torch.randn(2, layer.weight.shape[1], generator=torch.Generator().manual_seed(1))
    up = torch.randn(layer.weight.shape[0], 2, generator=torch.Generator().manual_seed(2))
    [first] = paint()
    assert first.size == (side, side) and first.mode == "RGB"
    with applied(denoiser, {denoiser.module_name(name): (down, up)}):
        [changed] = paint()
    [again] = paint()
    assert first.tobytes() == again.tobytes() != changed.tobytes()
    [other] = backbone_again(model, kind).painter(replaced(drawing, seed=4))()
    assert other.tobytes() != first.tobytes()


def backbone_again(model, kind):
    return load_folder(model, **CPU) if kind == "folder" else DemoBackbone()


def replaced(drawing, **changes):
    return Drawing(**(vars(drawing) | changes))


def test_the_negative_prompt_counts_where_there_is_guidance(model):
    def drawn(**changes):
        drawing = Drawing(("a red boot",), None, 3, 3, 3.0, 64)
        [picture] = load_folder(model, **CPU).painter(replaced(drawing, **changes))()
        return picture.tobytes()

    assert len({drawn(), drawn(negative="blurry"), drawn(negative="")}) == 3
    assert drawn(guidance=1.0) == drawn(guidance=1.0, negative="blurry")


def test_the_bundled_model_draws_too(images, tmp_path, capsys):
    given = ["--model", "demo", "--images", str(images), "--out", str(tmp_path / "x.safetensors")]
    more = ["--prompt", "a clock", "--steps", "2", "--preset", "small", "--dtype", "fp32"]
    assert main(["train", *given, *more, *SAMPLED]) == 0
    assert "step_000002.png" in names(tmp_path / "x_run" / "previews")


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--sample-negative", "x"], "sample-negative goes with sample-prompt"),
        (["--sample-prompt", "x", "--sample-every", "0"], "sample-every is 0"),
        (["--sample-prompt", "x", "--sample-steps", "0"], "sample-steps is 0"),
    ],
)
def test_bad_options_are_named_before_anything_is_loaded(
    model, images, tmp_path, capsys, monkeypatch, more, named
):
    monkeypatch.setattr(material, "load", lambda *_: pytest.fail("loaded"))
    assert train(model, images, tmp_path / "x.safetensors", *more) == 2
    assert named in capsys.readouterr().err


def test_what_cannot_be_drawn_is_a_warning(model, images, plain, tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("lora2_core.backbones.pipeline._sampled", broken)
    out = tmp_path / "x.safetensors"
    assert train(model, images, out, *SAMPLED) == 0
    said = capsys.readouterr().err
    assert "warning: the preview of step 2 could not be drawn: CUDA out of memory" in said
    assert same(out, plain)


def test_pictures_of_a_lost_run_are_neither_mixed_in_nor_overwritten(
    model, images, tmp_path, capsys
):
    folder = tmp_path / "x_run" / "previews"
    folder.mkdir(parents=True)
    (folder / "step_000002.png").write_bytes(b"precious")
    out = tmp_path / "x.safetensors"
    assert train(model, images, out, *SAMPLED) == 2
    assert "left no state" in capsys.readouterr().err
    assert (folder / "step_000002.png").read_bytes() == b"precious"
