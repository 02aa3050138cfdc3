"""What a run leaves on the disk is reckoned before it is begun."""

from collections import namedtuple
from dataclasses import replace

import pytest
import toy
from toy_runs import BASE

from lora2_core.errors import LoRA2Error
from lora2_core.room import disk
from lora2_core.room.need import kept
from lora2_core.runs.run_folder import RunFolder
from lora2_core.training.loop import Training
from lora2_core.training.plan import starting_ranks

Usage = namedtuple("Usage", "free")


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}, {"optimizer": "adafactor"}])
def test_the_count_is_about_what_is_written(tmp_path, changes):
    config = replace(BASE, method="lora", steps=2, r_init=8, **changes)
    denoiser = toy.ToyDenoiser(width=64, context_width=64)
    training = Training(denoiser, data_of(64), config)
    training.run()
    folder = RunFolder(tmp_path / "run")
    folder.save(training)
    written = sum(path.stat().st_size for path in folder.path.iterdir())
    counted = kept(denoiser, config, starting_ranks(denoiser, config))
    assert counted < written < 1.5 * counted + 60_000  # headers, and who knows what else


def data_of(width):
    import torch

    from lora2_core.diffusion.data import Example, batches

    example = Example(torch.randn(1, 4, 4, 4), {"context": torch.randn(1, 7, width)})
    return batches([example], batch_size=1, accumulation=1, seed=0)


@pytest.mark.parametrize(("share", "outcome"), [(0.9, "refused"), (2.0, "warned"), (3.1, None)])
def test_a_disk_that_is_short_is_named(tmp_path, monkeypatch, share, outcome):
    denoiser = toy.ToyDenoiser()
    ranks = starting_ranks(denoiser, BASE)
    free = int(share * kept(denoiser, BASE, ranks))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(free))
    if outcome == "refused":
        with pytest.raises(LoRA2Error, match="make room"):
            disk.check_disk(tmp_path, denoiser, BASE, ranks)
    else:
        told = disk.check_disk(tmp_path, denoiser, BASE, ranks)
        assert (told is not None) == (outcome == "warned")
