"""The demo model's training runs: taken up, cooled down, and begun from a checkpoint."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lora2_core.demo_model import checkpoint
from lora2_core.demo_model.networks import build_autoencoder, build_unet
from lora2_core.demo_model.recipe import trunk
from lora2_core.demo_model.recipe.adopt import adopt
from lora2_core.demo_model.recipe.export import export
from lora2_core.demo_model.text import TextEncoder, Tokenizer
from lora2_core.drawn_world.scene import vocabulary

BLINK = 0.005  # minutes


def run(work, minutes=BLINK, cooldown=0.0):
    """Fits a line through noise; returns the average and the steps that were seen."""
    torch.manual_seed(0)
    seen = []

    def loss_of(model, step):
        seen.append(step)
        x = torch.randn(8, 3)
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    average = trunk.run(
        "line", work, nn.Linear(3, 1), loss_of,
        learning_rate=1e-2, images_a_step=8, minutes=minutes, cooldown=cooldown,
    )  # fmt: skip
    return average, seen


def test_a_run_is_taken_up_where_it_was(tmp_path):
    _, first = run(tmp_path)
    average, second = run(tmp_path)
    assert first[0] == 0 and second[0] == first[-1] + 1
    record = json.loads((tmp_path / "line.json").read_text())
    assert record["steps"] == second[-1] + 1 and record["images"] == 8 * record["steps"]
    assert [images for images, _ in record["curve"]] == sorted(i for i, _ in record["curve"])
    assert torch.equal(trunk.latest(tmp_path, "line")["weight"], average.weight)


def test_a_cooldown_leaves_the_state_as_it_was(tmp_path):
    run(tmp_path)
    before = torch.load(tmp_path / "line.pt", weights_only=True)
    average, seen = run(tmp_path, cooldown=BLINK)
    after = torch.load(tmp_path / "line.pt", weights_only=True)
    assert after["step"] == before["step"] == seen[0]
    assert torch.equal(after["model"]["weight"], before["model"]["weight"])
    assert torch.equal(trunk.latest(tmp_path, "line")["weight"], average.weight)


@pytest.fixture
def written(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer(vocabulary())
    networks = build_unet(), build_autoencoder(), TextEncoder(len(tokenizer))
    record = {"steps": 7, "images": 56, "seconds": 3, "curve": [[56, 0.5]]}
    model = checkpoint.DemoModel(*networks, tokenizer)
    checkpoint.save(
        model, tmp_path / "first.safetensors", {"autoencoder": record, "denoiser": record}
    )
    return tmp_path / "first.safetensors"


def test_training_goes_on_from_a_checkpoint_alone(written, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    adopt(work, written)
    for name in ("autoencoder", "denoiser"):
        state = torch.load(work / f"{name}.pt", weights_only=True)
        assert (state["step"], state["seconds"], state["curve"]) == (7, 3, [[56, 0.5]])
        record = {"steps": 7, "images": 56, "seconds": 3, "curve": [[56, 0.5]]}
        (work / f"{name}.json").write_text(json.dumps(record))
    export(work, tmp_path / "second.safetensors")
    first, second = load_file(written), load_file(tmp_path / "second.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
