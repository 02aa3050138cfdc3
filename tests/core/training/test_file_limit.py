"""A finished file cut to a budget: never passed, filled with the rows of most effect."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
import toy
import toy_runs
from toy_runs import BASE, Stop, data, run, stop_at

from lora2_core.config import BYTES
from lora2_core.errors import LoRA2Error
from lora2_core.files.writing import write
from lora2_core.runs.packing import pack_result
from lora2_core.training.loop import Training

WORDS = 2600  # bytes that are kept free for words which a run may carry in its file
RUN = replace(BASE, effect_share=0.999999, steps=34, rank_freeze=1.0, r_init=8, r_max=8)


def network():
    return toy.ToyDenoiser(width=64)


def size(result, folder, precision="fp16"):
    return write(pack_result(result), folder / "a.safetensors", precision=precision).stat().st_size


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("megabytes", [0.012, 0.02, 0.03])
def test_the_file_is_at_most_the_budget_and_nearly_that(megabytes, precision, tmp_path):
    config = replace(RUN, budget_mb=megabytes, budget_precision=precision)
    result = run(config, network())
    found = size(result, tmp_path, precision)
    assert found <= 1e6 * megabytes
    row = BYTES[precision] * 128 + 400  # of a component that has none yet
    assert found >= 1e6 * megabytes - WORDS - 16 * 60 - row


def test_training_is_what_it_is_without_and_the_best_rows_stay():
    free, held = run(RUN, network()), run(replace(RUN, budget_mb=0.02), network())
    assert free.losses == held.losses
    kept = [value for own in held.effects.values() for value in own]
    everything = sorted((v for own in free.effects.values() for v in own), reverse=True)
    assert 16 < len(kept) < len(everything)
    assert sum(kept) >= 0.97 * sum(everything[: len(kept)])  # a layer's first row costs more
    for name, own in held.effects.items():
        assert own == free.effects[name][: len(own)]
    assert set(held.factors) == {name for name, own in held.effects.items() if own}


def test_a_budget_for_more_than_there_is_keeps_what_the_share_keeps():
    config = replace(RUN, effect_share=0.9)
    free, held = run(config, network()), run(replace(config, budget_mb=10.0), network())
    assert toy_runs.same_bits(free, held)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_run_that_is_stopped_keeps_to_it_too(steps, tmp_path):
    training = Training(network(), data(), replace(RUN, budget_mb=0.02))
    if steps:
        with suppress(Stop):
            training.run(stop_at(steps, Stop()))
    result = training.result()
    assert size(result, tmp_path) <= 0.02e6
    assert result.factors
    for down, up in result.factors.values():
        assert len(down) == up.shape[1] and torch.isfinite(up).all()


def test_too_little_for_one_row_is_refused_with_the_least(tmp_path):
    config = replace(RUN, steps=32)
    with pytest.raises(LoRA2Error, match=r"budget_mb is 0\.001, but a file with a single row") as e:
        run(replace(config, budget_mb=0.001), network())
    least = float(str(e.value).split("takes ")[1].split(" MB")[0])
    result = run(replace(config, budget_mb=least), network())
    assert result.factors and size(result, tmp_path) <= 1e6 * least
