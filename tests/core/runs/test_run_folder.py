"""The folder of a run: whole states only, the last few, whatever goes wrong."""

import pytest
import toy
from toy_runs import BASE, Stop, data, same_bits, stop_at

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import read
from lora2_core.ranks.rank_report import report
from lora2_core.runs.run_folder import RunFolder, run_kept
from lora2_core.training import run_state
from lora2_core.training.loop import Training
from lora2_core.training.run_state import NewerState


def begun(config=BASE):
    return Training(toy.ToyDenoiser(), data(seed=config.seed), config)


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def ignore(_):
    pass


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "dog", trigger_words="sks")


def test_the_last_states_and_their_adapters_are_kept(folder):
    with pytest.raises(Stop):
        run_kept(begun(), folder, 2, stop_at(7, Stop()), pytest.fail)
    assert names(folder) == [
        "step_000006.safetensors",
        "step_000006.state.safetensors",
        "step_000007.safetensors",
        "step_000007.state.safetensors",
    ]
    training = begun()
    training.restore(folder.newest())
    result = run_kept(training, folder, 2, ignore, pytest.fail)
    assert names(folder) == ["step_000008.safetensors", "step_000008.state.safetensors"]
    adapter = read(folder.path / "step_000008.safetensors")
    ranks = {name.removeprefix("toy."): rank for name, (_, rank) in result.ranks.items()}
    assert [row["rank"] for row in report(adapter)["components"]] == list(ranks.values())
    assert adapter.metadata["modelspec.trigger_phrase"] == "sks"
    assert folder.newest().step == 8


@pytest.mark.parametrize("every", [0, 3, 5])
@pytest.mark.parametrize("error", [Stop(), RuntimeError("out of memory")])
def test_what_was_trained_is_kept_on_any_error(folder, every, error):
    with pytest.raises(type(error)):
        run_kept(begun(), folder, every, stop_at(5, error), pytest.fail)
    again = begun()
    again.restore(folder.newest())
    assert again.done == 5
    assert same_bits(again.run(), begun().run())


def test_an_error_within_a_step_leaves_the_step_before(folder):
    training = begun()
    predict, calls = training._denoiser.predict, []

    def broken(*given):
        calls.append(0)
        if len(calls) == 5:
            raise Stop
        return predict(*given)

    training._denoiser.predict = broken
    with pytest.raises(Stop):
        run_kept(training, folder, 0, ignore, pytest.fail)
    again = begun()
    again.restore(folder.newest())
    assert again.done == 4
    assert same_bits(again.run(), begun().run())


def test_an_error_before_the_first_step_leaves_nothing(folder):
    training = begun()
    training._denoiser.predict = None
    with pytest.raises(TypeError):
        run_kept(training, folder, 1, ignore, pytest.fail)
    assert not folder.path.exists()


def test_a_full_disk_stops_no_training(folder, monkeypatch):
    training, troubles = begun(), []
    original = run_state.os.fsync

    def full_after_four(descriptor):
        if training.done > 4:
            raise OSError(28, "No space left on device")
        return original(descriptor)

    monkeypatch.setattr("lora2_core.training.run_state.os.fsync", full_after_four)
    result = run_kept(training, folder, 2, ignore, troubles.append)
    assert result.steps == 8
    assert [text.split(" could")[0] for text in troubles] == [
        "the state of step 6",
        "the state of step 8",
    ]
    assert "No space left" in troubles[0]
    assert folder.newest().step == 4


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_torn_state_is_passed_over(folder, length, caplog):
    with pytest.raises(Stop):
        run_kept(begun(), folder, 4, stop_at(6, Stop()), pytest.fail)
    last = folder.path / "step_000006.state.safetensors"
    last.write_bytes(last.read_bytes()[:length])
    assert folder.newest().step == 4
    assert "step_000006" in caplog.text


def test_a_state_of_a_newer_version_is_not_passed_over(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_state, "FORMAT", 7)
        run_kept(begun(), folder, 0, ignore, pytest.fail)
    with pytest.raises(NewerState, match="version 7"):
        folder.newest()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LoRA2Error, match="cannot be made"):
        RunFolder(tmp_path / "file" / "dog")
