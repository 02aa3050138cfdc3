"""A run that is stopped and taken up is the run that was never stopped, to the bit."""

from dataclasses import replace

import pytest
import torch
import toy
from toy_runs import BASE, Stop, data, same_bits, stop_at

from lora2_core.diffusion.data import Example, batches
from lora2_core.errors import LoRA2Error
from lora2_core.training.loop import Training
from lora2_core.training.run_state import RunState, read_state, write_state

WAYS = {
    "shrinking": {"steps": 14, "r_init": 6, "lambda_r": 3e-3, "shrink_patience": 2},
    "growing": {"steps": 12, "r_init": 2, "r_target": 10, "lambda_r": 1.0, "ema_decay": 0.9},
    "fp16": {"steps": 8, "dtype": "fp16"},
    "ac_lora": {"steps": 12, "method": "ac_lora", "ac_period": 0.25},
}
LIBRARIES = {"prodigy": "prodigyopt", "adamw8bit": "bitsandbytes"}
RUNS = {
    "lora2": replace(BASE, steps=14, r_init=6, lambda_r=3e-3, shrink_patience=2),
    "lora2, growing": replace(BASE, steps=14, r_init=2, r_target=10, lambda_r=1.0),
    "lora2, budget": replace(BASE, steps=14, budget_mb=0.023),
    "lora2, fp16": replace(BASE, steps=10, dtype="fp16"),
    "lora": replace(BASE, steps=6, method="lora"),
    **{
        f"{name}, {way}": replace(
            BASE, **settings, optimizer=name, learning_rate=1.0 if name == "prodigy" else 3e-3
        )
        for name in ("adafactor", "prodigy", "adamw8bit")
        for way, settings in WAYS.items()
    },
    "every knob": replace(
        BASE,
        steps=14,
        r_init=6,
        lambda_r=3e-3,
        shrink_patience=2,
        lr_scheduler="cosine",
        lr_warmup_steps=3,
        min_snr_gamma=5.0,
        noise_offset=0.1,
        timestep_bias="earlier",
        caption_dropout=0.3,
        repeats=3,
        ema_decay=0.9,
    ),
    "average, growing": replace(BASE, steps=14, r_init=2, r_target=10, lambda_r=1.0, ema_decay=0.9),
    "average, ac_lora": replace(BASE, steps=20, method="ac_lora", ac_period=0.2, ema_decay=0.9),
    "ac_lora": replace(BASE, steps=20, method="ac_lora", ac_period=0.2),
}


def begun(config, denoiser=None, **settings):
    settings = {
        "seed": config.seed,
        "batch_size": 2,
        "accumulation": 2,
        "repeats": config.repeats,
        "caption_dropout": config.caption_dropout,
    } | settings
    return Training(denoiser or toy.ToyDenoiser(), data(**settings), config)


def through_a_file(state, tmp_path):
    write_state(state, tmp_path / "state.safetensors")
    return read_state(tmp_path / "state.safetensors")


@pytest.fixture(scope="module", params=RUNS)
def whole(request):
    config = RUNS[request.param]
    if config.optimizer in LIBRARIES:
        pytest.importorskip(LIBRARIES[config.optimizer])
    infos, states = [], []
    training = begun(config)

    def note(info):
        infos.append(info)
        states.append(training.state())

    return config, training.run(note), infos, states


def test_whichever_step_it_was_cut_at(whole, tmp_path):
    config, expected, infos, states = whole
    assert len({info.ranks for info in infos}) > 2 or config.method != "lora2"
    assert any(up.abs().max() > 0 for _, up in expected.factors.values())
    for cut, state in enumerate(states, 1):
        training = begun(config)
        training.restore(through_a_file(state, tmp_path))
        assert training.done == cut
        seen = []
        found = training.run(seen.append)
        assert same_bits(found, expected), cut
        assert found.losses == expected.losses
        for one, other in zip(seen, infos[cut:], strict=True):
            assert replace(one, seconds=0) == replace(other, seconds=0)


def test_a_state_does_not_change_as_the_run_goes_on():
    training = begun(BASE)
    kept = []

    def note(info):
        if info.step == 3:
            kept.append(training.state())
            kept.append({name: tensor.clone() for name, tensor in kept[0].tensors.items()})

    training.run(note)
    state, copy = kept
    assert state.step == 3
    assert all(torch.equal(state.tensors[name], copy[name]) for name in copy)


@pytest.mark.parametrize("error", [RuntimeError("x"), Stop()])
def test_a_run_that_is_stopped_still_has_its_adapter_and_its_state(error, tmp_path):
    training = begun(BASE)
    with pytest.raises(type(error)):
        training.run(stop_at(5, error))
    assert training.done == training.result().steps == 5
    again = begun(BASE)
    again.restore(through_a_file(training.state(), tmp_path))
    assert same_bits(again.run(), begun(BASE).run())


def test_a_finished_run_can_be_asked_for_more_steps():
    training = begun(BASE)
    training.run()
    longer = begun(replace(BASE, steps=12))
    longer.restore(training.state())
    result = longer.run()
    assert result.steps == 12 and result.losses[:8] == training.losses


def test_other_settings_are_refused_by_name():
    training = begun(BASE)
    with pytest.raises(Stop):
        training.run(stop_at(5, Stop()))
    state = training.state()
    changed = replace(BASE, learning_rate=0.5, r_max=11, gradient_checkpointing=False, steps=99)
    with pytest.raises(LoRA2Error) as caught:
        begun(changed).restore(state)
    words = str(caught.value)
    assert "learning_rate was 0.003 and is 0.5" in words and "r_max was 12 and is 11" in words
    assert "checkpointing" not in words and "steps" not in words
    with pytest.raises(LoRA2Error, match="steps is 4, but the run has done 5"):
        begun(replace(BASE, steps=4)).restore(state)
    with pytest.raises(LoRA2Error, match="another network"):
        begun(BASE, toy.ToyDenoiser(blocks=3)).restore(state)


def test_a_state_from_before_a_setting_existed_goes_on_with_its_default_only():
    training = begun(BASE)
    with pytest.raises(Stop):
        training.run(stop_at(5, Stop()))
    state = training.state()
    young = ("optimizer", "lr_power", "min_snr_gamma", "repeats", "ema_decay")
    settings = {k: v for k, v in state.facts["config"].items() if k not in young}
    old = RunState(state.tensors, {**state.facts, "config": settings})
    again = begun(BASE)
    again.restore(old)
    assert same_bits(again.run(), begun(BASE).run())
    with pytest.raises(LoRA2Error, match=r"min_snr_gamma was 0\.0 and is 5\.0"):
        begun(replace(BASE, min_snr_gamma=5.0)).restore(old)


def test_a_torn_or_foreign_file_is_refused(tmp_path):
    training = begun(BASE)
    path = tmp_path / "state.safetensors"
    write_state(training.state(), path)
    data = path.read_bytes()
    for length in (0, 7, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(LoRA2Error, match=r"state\.safetensors"):
            read_state(path)
    write_state(RunState({"x": torch.ones(1)}, {}), path)
    torn = path.read_bytes().replace(b"lora2_state", b"lora2_other")
    path.write_bytes(torn)
    with pytest.raises(LoRA2Error, match="no state of a training run"):
        read_state(path)
    write_state(RunState({"x": torch.ones(1)}, {"format_version": 2}), path)
    with pytest.raises(LoRA2Error, match=r"version 2.*update"):
        read_state(path)


def test_a_failed_write_leaves_the_last_state(tmp_path, monkeypatch):
    training = begun(BASE)
    path = tmp_path / "state.safetensors"
    write_state(training.state(), path)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lora2_core.training.run_state.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_state(training.state(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


def test_the_order_of_unequal_sizes_and_prior_images_goes_on():
    def order():
        sizes = [(4, 4), (4, 6), (4, 4), (2, 2)]
        generator = torch.Generator().manual_seed(1)
        examples = [
            Example(
                torch.randn(1, 4, *size, generator=generator),
                {"context": torch.randn(1, 7, 12, generator=generator)},
            )
            for size in sizes
        ]
        return batches(examples, batch_size=2, accumulation=1, seed=3, prior=examples[:2])

    config = replace(BASE, steps=9)
    whole = Training(toy.ToyDenoiser(), order(), config)
    states = []
    expected = whole.run(lambda info: states.append(whole.state()))
    again = Training(toy.ToyDenoiser(), order(), config)
    again.restore(states[3])
    assert same_bits(again.run(), expected)
