"""Previews: the training does not notice them, whatever they do."""

import random
from dataclasses import replace

import pytest
import torch
import toy
from PIL import Image
from toy_runs import BASE, Stop, data, same_bits, stop_at

from lora2_core.errors import LoRA2Error
from lora2_core.runs.contact_sheet import contact_sheet
from lora2_core.runs.preview_folder import PreviewFolder
from lora2_core.runs.previews import Previews
from lora2_core.runs.run_folder import RunFolder, run_kept
from lora2_core.training.loop import Training

INPUTS = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(5))
CONTEXT = {"context": torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(6))}


def ignore(*_):
    pass


class Painter:
    """Paints what the network predicts, and behaves as samplers do: it seeds and draws at will."""

    def __init__(self, denoiser, count=1, size=(48, 32)):
        self.denoiser, self.count, self.size = denoiser, count, size
        self.seen, self.fails, self.calls = [], {}, 0

    def __call__(self):
        self.calls += 1
        torch.manual_seed(7)
        torch.randn(100)
        with torch.inference_mode():
            out = self.denoiser.predict(INPUTS, torch.tensor([1, 8]), CONTEXT)
        assert not out.requires_grad
        self.seen.append(out.clone())
        if error := self.fails.get(self.calls):
            raise error
        colour = tuple(self.seen[-1].flatten()[:3].mul(40).add(128).int().tolist())
        return [Image.new("RGB", self.size, colour)] * self.count


class Run:
    """A run of BASE on the toy with previews, in a folder."""

    def __init__(self, path, every=3, config=BASE, count=1, stops=()):
        self.denoiser = toy.ToyDenoiser()
        self.training = Training(self.denoiser, data(seed=config.seed), config)
        self.folder = RunFolder(path)
        self.painter = Painter(self.denoiser, count)
        self.troubles, self.drawn = [], []
        self.previews = Previews(
            PreviewFolder(path / "previews"), every, self.painter, count, self.troubles.append,
            lambda step, pictures: self.drawn.append((step, pictures)), stops,
        )  # fmt: skip

    def __call__(self, on_step=ignore, save_every=0):
        return run_kept(self.training, self.folder, save_every, on_step, pytest.fail, self.previews)

    def names(self):
        return sorted(path.name for path in self.previews.folder.path.iterdir())


def without(config=BASE):
    return Training(toy.ToyDenoiser(), data(seed=config.seed), config).run()


CONFIGS = {
    "lora2": replace(BASE, lambda_e=0.1, lambda_r=3e-3),
    "checkpointed": replace(BASE, gradient_checkpointing=True, lambda_e=0.1),
    "fp16": replace(BASE, dtype="fp16"),
    "ac_lora": replace(BASE, method="ac_lora", ac_period=0.2),
    "lora": replace(BASE, method="lora"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_run_with_previews_is_the_run_without_bit_for_bit(tmp_path, config):
    expected = without(config)
    torch.manual_seed(31)
    random.seed(31)
    before = torch.get_rng_state(), random.getstate()
    run = Run(tmp_path, every=1, config=config)
    result = run()
    assert run.painter.calls == 8 and run.troubles == []
    assert same_bits(result, expected) and result.losses == expected.losses
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_the_pictures_are_of_the_adapter_as_a_file_would_hold_it(tmp_path):
    run = Run(tmp_path, every=1, config=replace(BASE, r_init=2, r_target=10, lambda_r=1.0))
    results = []
    run(lambda info: results.append(run.training.result()))
    assert len({tuple(result.ranks.values()) for result in results}) > 2
    for seen, result in zip(run.painter.seen, results, strict=True):
        other = toy.ToyDenoiser()
        for name, (down, up) in result.factors.items():
            layer = other.network.get_submodule(name.removeprefix("toy."))
            layer.weight += up @ down
        expected = other.predict(INPUTS, torch.tensor([1, 8]), CONTEXT)
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(run.painter.seen[0], run.painter.seen[-1])


def test_a_sampler_meets_the_adapters_alone(tmp_path):
    run = Run(tmp_path, every=2, config=CONFIGS["checkpointed"])
    modules = list(run.denoiser.network.modules())
    found = []

    def paint():
        found.append([len(m._forward_hooks) for m in modules])
        assert not any("forward" in vars(m) for m in modules)
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        return [Image.new("RGB", (8, 8))]

    run.previews._paint = paint
    passes = []
    run(lambda info: passes.append(run.training._parts.probe.passes))
    assert run.troubles == [] and passes == list(range(1, 9))
    assert len(found) == 4 and all(set(hooks) == {0, 1} and sum(hooks) == 16 for hooks in found)
    assert sum(len(m._forward_hooks) for m in modules) == 0
    assert torch.is_grad_enabled()


def test_every_few_steps_and_at_the_end_and_a_sheet(tmp_path):
    run = Run(tmp_path, every=3)
    run()
    assert run.names() == ["sheet.png", *(f"step_{s:06d}.png" for s in (3, 6, 8))]
    assert run.drawn == [(3, 1), (6, 1), (8, 1)]
    with Image.open(tmp_path / "previews" / "step_000003.png") as picture:
        assert picture.size == (48, 32) and picture.format == "PNG"


def test_several_pictures_have_numbers(tmp_path):
    run = Run(tmp_path, every=8, count=2)
    run()
    assert run.names() == ["sheet.png", "step_000008_1.png", "step_000008_2.png"]
    assert [len(paths) for paths in run.previews.folder.steps().values()] == [2]


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), KeyError("x"), ValueError()])
def test_what_fails_is_told_and_the_training_goes_on(tmp_path, error):
    run = Run(tmp_path, every=2)
    run.painter.fails[2] = error
    result = run()
    assert same_bits(result, without())
    (told,) = run.troubles
    assert told.startswith("the preview of step 4 could not be drawn: ")
    assert told.endswith(str(error) or "ValueError")
    assert run.names() == ["sheet.png", *(f"step_{s:06d}.png" for s in (2, 6, 8))]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    run = Run(tmp_path, every=4)
    (tmp_path / "previews").touch()
    assert same_bits(run(), without())
    assert len(run.troubles) >= 2 and "step 4" in run.troubles[0]


class HostInterrupt(Exception):
    """As older hosts have it."""


@pytest.mark.parametrize("error", [Stop(), KeyboardInterrupt(), HostInterrupt()])
def test_an_interrupt_in_a_preview_stops_and_the_run_goes_on_with_that_preview(tmp_path, error):
    run = Run(tmp_path, every=2, stops=(HostInterrupt,))
    run.painter.fails[3] = error
    with pytest.raises(type(error)):
        run()
    assert run.troubles == []
    assert run.names() == ["sheet.png", "step_000002.png", "step_000004.png"]
    assert run.folder.newest().step == 6

    again = Run(tmp_path, every=2)
    again.training.restore(again.folder.newest())
    assert same_bits(again(), without())
    assert again.drawn == [(6, 1), (8, 1)]
    assert torch.equal(again.painter.seen[0], run.painter.seen[2])


def test_an_interrupt_in_the_last_preview_is_made_up_for(tmp_path):
    run = Run(tmp_path, every=100)
    run.painter.fails[1] = Stop()
    with pytest.raises(Stop):
        run()
    again = Run(tmp_path, every=100)
    again.training.restore(again.folder.newest())
    assert same_bits(again(), without())
    assert again.drawn == [(8, 1)]


def test_pictures_that_are_there_are_not_drawn_again(tmp_path):
    run = Run(tmp_path, every=2)
    with pytest.raises(Stop):
        run(stop_at(7, Stop()), save_every=3)
    for path in tmp_path.glob("step_000007*"):  # as if it had been killed
        path.unlink()
    again = Run(tmp_path, every=2)
    again.training.restore(again.folder.newest())
    assert again.training.done == 6
    again()
    assert again.drawn == [(8, 1)] and again.painter.calls == 1
    assert list(again.previews.folder.steps()) == [2, 4, 6, 8]


def test_what_is_cancelled_is_not_drawn_first(tmp_path):
    run = Run(tmp_path, every=1)
    with pytest.raises(Stop):
        run(stop_at(1, Stop()))
    assert run.painter.calls == 0
    assert not (tmp_path / "previews").exists()


def test_previews_every_zero_steps_are_refused(tmp_path):
    with pytest.raises(LoRA2Error, match="every 0 steps"):
        Run(tmp_path, every=0)


def test_a_torn_write_leaves_no_picture(tmp_path, monkeypatch):
    folder = PreviewFolder(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lora2_core.runs.preview_folder.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        folder.write(5, [Image.new("RGB", (8, 8))])
    assert list(tmp_path.iterdir()) == [] and not folder.has(5, 1)


def test_a_thumbnail_is_of_its_own_step_and_picture(tmp_path):
    folder = PreviewFolder(tmp_path / "new")
    assert folder.steps() == {} and folder.thumbnail(5, 0, 64) is None
    red, blue = (Image.new("RGB", (300, 200), colour) for colour in ("red", "blue"))
    folder.write(5, [red, blue])
    folder.write(1_000_000, [blue])
    assert list(folder.steps()) == [5, 1_000_000]
    shown = {}
    for picture in (0, 1):
        path = tmp_path / f"{picture}.jpg"
        path.write_bytes(folder.thumbnail(5, picture, 64))
        with Image.open(path) as image:
            assert image.size == (64, 43)
            shown[picture] = image.getpixel((30, 20))
    assert shown[0][0] > 240 > 15 > shown[0][2] and shown[1][2] > 240
    assert folder.thumbnail(5, 2, 64) is None and folder.thumbnail(5, -1, 64) is None
    assert folder.thumbnail(6, 0, 64) is None


def stripes(path, count):
    """Pictures of as many greys; returns step → files."""
    folder = PreviewFolder(path)
    for index in range(count):
        grey = 20 + index % 11 * 20
        folder.write(index + 1, [Image.new("RGB", (512, 512), (grey, grey, grey))])
    return folder.steps()


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_a_sheet_shows_every_picture_in_the_order_of_its_steps(tmp_path, count):
    sheet = contact_sheet(stripes(tmp_path, count)).convert("L")
    cell = 256 + 8
    columns = sheet.width // cell
    for index in range(count):
        x, y = 8 + index % columns * cell, 8 + index // columns * (256 + 24)
        assert sheet.getpixel((x + 128, y + 128)) == 20 + index % 11 * 20
        under = sheet.crop((x + 60, y + 258, x + 200, y + 274))
        assert min(under.tobytes()) < 120, "no step is written under it"
    assert 0.4 < sheet.width / sheet.height < 2.5


def test_a_sheet_of_a_long_run_stays_of_a_size(tmp_path):
    sheet = contact_sheet(stripes(tmp_path, 130))
    assert max(sheet.size) < 4000
