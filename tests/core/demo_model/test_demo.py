"""The demo command, with few steps: what it writes, and what it refuses."""

import io
import json
from contextlib import redirect_stdout

import pytest
from PIL import Image
from safetensors.torch import load_file

from lora2_core.__main__ import main
from lora2_core.commands import demo as command
from lora2_core.demo_model import bundled

STEPS = ["--steps", "3"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new" / "out"


def size(path):
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Two runs into one folder, the second with previews; (folder, what was said in the first)."""
    out = tmp_path_factory.mktemp("demo") / "new" / "out"
    said = io.StringIO()
    with redirect_stdout(said):
        assert main(["demo", "--out", str(out), *STEPS]) == 0
    assert main(["demo", "--out", str(out), *STEPS, "--preview-every", "2"]) == 0
    return out, said.getvalue()


def test_it_writes_adapter_pictures_ranks_and_report(twice):
    out, said = twice
    files = {path.suffix: path for path in out.iterdir() if str(path) in said}
    pictures = sorted(path for path in out.glob("*.png") if str(path) in said)
    assert set(files) == {".safetensors", ".json", ".png"} and len(pictures) == 2
    assert "step 3/3" in said and "mean rank" in said and "left" in said
    state = load_file(files[".safetensors"])
    ranks = {
        key.removesuffix(".lora_down.weight"): len(tensor)
        for key, tensor in state.items()
        if key.endswith("lora_down.weight")
    }
    told = json.loads(files[".json"].read_text())
    assert {c["name"]: c["rank"] for c in told["ranks"]["components"]} == ranks
    assert len(told["losses"]) == 3 and len(told["prompts"]) == 5
    width, height = size(pictures[0])
    assert width > 5 * 128 and height > 3 * 128 and min(size(pictures[1])) > 100


def test_a_second_run_replaces_nothing(twice):
    out, said = twice
    assert len(list(out.glob("*.png"))) == 4 and len(list(out.glob("*.json"))) == 2
    assert sum(str(path) in said for path in out.glob("*.png")) == 2


def test_one_seed_gives_one_adapter_with_and_without_previews(twice):
    first, second = (load_file(path) for path in sorted(twice[0].glob("*.safetensors")))
    assert first.keys() == second.keys()
    assert all((first[key] == second[key]).all() for key in first)


def test_previews_are_drawn_as_it_learns(twice):
    [folder] = twice[0].glob("*previews*")  # of the second run alone
    assert sorted(path.name for path in folder.iterdir()) == [
        "sheet.png", *(f"step_{step:06d}_{i}.png" for step in (2, 3) for i in range(1, 6)),
    ]  # fmt: skip


def test_a_subject_of_ones_own(out, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"lime vase": {"kind": "vase", "colours": ["#80ff00"]}}')
    given = ["--subjects", str(file), "--subject", "lime vase"]
    assert main(["demo", "--out", str(out), *STEPS, *given]) == 0
    told = json.loads(next(out.glob("*.json")).read_text())
    assert all("sks vase" in prompt for prompt in told["prompts"])


def test_an_unknown_subject_is_named_beside_those_there_are(out, capsys):
    assert main(["demo", "--out", str(out), "--subject", "unicorn"]) == 2
    said = capsys.readouterr().err
    assert "unicorn" in said and "tiger clock" in said and "--subjects" in said
    assert not out.exists()


def test_a_folder_that_cannot_be_made_is_found_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command.demo, "run", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_weights_that_are_not_whole_are_refused_with_the_way_out(
    harm, out, tmp_path, capsys, monkeypatch
):
    weights = tmp_path / "weights.safetensors"
    if harm == "damaged":
        weights.write_bytes(bundled.WEIGHTS.read_bytes()[:-1])
    monkeypatch.setattr(bundled, "WEIGHTS", weights)
    bundled.weights.cache_clear()
    assert main(["demo", "--out", str(out), *STEPS]) == 2
    said = capsys.readouterr().err
    assert weights.name in said and "git checkout" in said
    bundled.weights.cache_clear()
