"""Settings: real defaults, and errors that name the value and the way out."""

from dataclasses import FrozenInstanceError, fields

import pytest

from lora2_core.config import MAX_RANK, PRESETS, TrainConfig
from lora2_core.errors import LoRA2Error

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "dora"),
        ("targets", "everything"),
        ("dtype", "fp8"),
        ("regulariser", "max"),
        ("importance", "even"),
        ("start", "flat"),
        ("start_share", 1.5),
        ("init", "kaiming"),
        ("growth", "ones"),
        ("steps", 0),
        ("batch_size", 0),
        ("gradient_accumulation", 0),
        ("entropy_queries", 0),
        ("r_init", 0),
        ("lambda_r", -1e-4),
        ("lambda_r", NAN),
        ("lambda_e", -1.0),
        ("weight_decay", -0.01),
        ("shrink_patience", -1),
        ("rank_rate", NAN),
        ("learning_rate", 0.0),
        ("learning_rate", NAN),
        ("max_grad_norm", 0.0),
        ("r_target", 0.0),
        ("rank_hold", 1.5),
        ("rank_freeze", -0.1),
        ("rank_freeze", NAN),
        ("quantile", 1.0),
        ("quantile", 0.0),
        ("r_max", MAX_RANK + 1),
        ("optimizer", "lion"),
        ("lr_scheduler", "step"),
        ("timestep_bias", "middle"),
        ("lr_cycles", 0),
        ("repeats", 0),
        ("lr_warmup_steps", -1),
        ("lr_warmup_steps", 500),
        ("lr_power", 0.0),
        ("min_snr_gamma", -1.0),
        ("min_snr_gamma", NAN),
        ("noise_offset", -0.1),
        ("timestep_bias_multiplier", 0.0),
        ("timestep_bias_portion", 0.0),
        ("timestep_bias_portion", 1.5),
        ("timestep_bias_begin", -1),
        ("timestep_bias_end", 0),
        ("caption_dropout", 1.5),
        ("caption_dropout", NAN),
        ("ema_decay", 1.0),
        ("ema_decay", NAN),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(LoRA2Error) as error:
        TrainConfig(**{name: value})
    assert name in str(error.value) and str(value) in str(error.value)


def test_a_start_above_the_limit_is_refused_with_both_numbers():
    with pytest.raises(LoRA2Error, match=r"r_init is 40 but r_max is 32; raise r_max or start"):
        TrainConfig(r_init=40, r_max=32)


def test_a_rate_that_does_not_go_with_what_uses_it_is_refused():
    with pytest.raises(LoRA2Error, match=r"learning_rate is 0\.0001, but prodigy .* set it to 1"):
        TrainConfig(optimizer="prodigy")
    with pytest.raises(LoRA2Error, match=r"learning_rate is 1e-07, but polynomial .* linear"):
        TrainConfig(lr_scheduler="polynomial", learning_rate=1e-7)


def test_an_unknown_choice_is_answered_with_the_choices():
    with pytest.raises(LoRA2Error, match="choose one of lora2, ac_lora, lora"):
        TrainConfig(method="lora3")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_defaults_with_its_own_choices_and_the_changes_on_top(name):
    preset = TrainConfig.preset(name, steps=7)
    assert all(getattr(preset, f) == value for f, value in PRESETS[name].items())
    assert preset.steps == 7
    other = {f.name for f in fields(TrainConfig)} - {*PRESETS[name], "steps"}
    assert all(getattr(preset, f) == getattr(TrainConfig(), f) for f in other)


def test_an_unknown_preset_or_setting_is_refused_by_name():
    with pytest.raises(LoRA2Error, match="preset is 'huge'"):
        TrainConfig.preset("huge")
    with pytest.raises(LoRA2Error, match="unknown setting lr, rank"):
        TrainConfig.preset("small", rank=4, lr=1)


def test_the_paper_s_preset_is_the_method_as_printed():
    config = TrainConfig.preset("paper")
    assert (config.r_init, config.lambda_r, config.lambda_e) == (512, 1e-4, 1e-4)
    assert (config.r_target, config.steps, config.batch_size) == (1, 500, 1)
    assert (config.importance, config.init, config.rank_term) == ("printed", "printed", "nu")
    assert config.quantile == 0.9 and config.regulariser == "sum"
    assert (config.start, config.effect_share, config.lr_scheduler) == ("even", 1.0, "constant")


@pytest.mark.parametrize("name", PRESETS)
def test_a_form_that_was_left_as_it_is_leaves_what_the_preset_says(name):
    usual = {f.name: getattr(TrainConfig(), f.name) for f in fields(TrainConfig)}
    assert TrainConfig.chosen(name, **usual) == TrainConfig.preset(name)
    other = TrainConfig.chosen(name, **usual | {"lambda_e": 0.5, "steps": 9})
    assert other == TrainConfig.preset(name, lambda_e=0.5, steps=9)
    with pytest.raises(LoRA2Error, match="unknown setting lr"):
        TrainConfig.chosen(name, lr=1)


def test_a_config_cannot_change_under_a_run():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().steps = 3
