"""A tiny run of it all: every contestant trained, measured, kept, drawn and shown."""

import math

import pytest
from tradeoff import kept, lesson, measure, pictures, plan, study, table, training
from tradeoff.contestants import CONTESTANTS, WHOLE
from tradeoff.judges import FOLDER as JUDGES
from tradeoff.lesson import Lesson
from tradeoff.plan import Run
from tradeoff.tasks import HAND, Task

from lora2_core.errors import LoRA2Error


@pytest.fixture
def world(tiny, tmp_path, monkeypatch, subjects):
    """(results, cache, tasks, run): run(names, **changes) makes what is missing."""
    monkeypatch.setattr(plan, "LIMITS", (3, 4))
    two = tuple(subjects[name] for name in ("mint mug", "coral duck"))
    known = {task.name: task for task in (Task("2 subjects", two), Task("style", hand=HAND))}
    results, cache = tmp_path / "results", tmp_path / "cache"

    def run(names, tasks=("2 subjects",), seeds=(0,), deadline=math.inf):
        chosen = {name: known[name] for name in tasks}
        study.go(results, cache, chosen, names, seeds, 1, deadline)
        return study.results(results, known).records

    return results, cache, known, run


@pytest.mark.parametrize("name", ["lora2", "lora_1", "paper", "ac_product", "lokr", "adalora"])
def test_every_kind_of_contestant_is_trained_and_measured(name, tiny, subjects):
    task = Task("one", (subjects["mint mug"],))
    record = study.make({"one": task}, None, Run("one", name, 0, 3))
    sizes = {cut: size for cut, (size, *_) in record["cuts"].items()}
    assert sizes[WHOLE] > 15_000
    for cut in ("effect 15k", "σ 15k"):
        assert 14_000 < sizes[cut] <= 15_000
    assert ("effect 61k" in sizes) == (sizes[WHOLE] > 61_000)
    assert "whole ×0.85" in sizes and "effect 15k ×0.85" in sizes
    assert record["mean_rank"] >= record["saved_rank"] > 0
    assert all(map(math.isfinite, (n for found in record["cuts"].values() for n in found)))


def test_rows_are_in_the_order_of_effects_and_add_up_to_the_same_update(tiny, subjects):
    learned = Lesson(Task("one", (subjects["mint mug"],)), 0)
    for name in ("ac_product", "lokr"):
        found = training.trained(CONTESTANTS[name], learned, 1e-3)
        for own in found.effects.values():
            assert list(own) == sorted(own, reverse=True)
        assert found.factors.keys() == found.effects.keys()


def test_runs_are_made_once_and_what_is_missing_is_made(world):
    results, _, _, run = world
    assert run(["lora_1"], deadline=0) == []
    first = run(["lora_1"], tasks=("2 subjects", "style"))
    assert {(r["task"], r["step"]) for r in first} == {
        (task, step) for task in ("2 subjects", "style") for step in (3, 4)
    }
    text = (results / study.FILE).read_text()
    assert run(["lora_1"], tasks=("2 subjects", "style")) == first
    assert (results / study.FILE).read_text() == text
    lines = text.splitlines(keepends=True)
    (results / study.FILE).write_text("".join(lines[:-1]) + lines[-1][:50])
    again = run(["lora_1"], tasks=("2 subjects", "style"))
    assert [study.run_of(r) for r in again] == [study.run_of(r) for r in first]
    assert [r["cuts"] for r in again] == [r["cuts"] for r in first]


def test_results_of_other_settings_are_left_out_and_made_again(world, monkeypatch):
    results, _, known, run = world
    assert len(run(["lora_1"])) == 2
    monkeypatch.setattr(lesson, "EACH", (3, 2))
    found = study.results(results, known)
    assert (found.records, found.left_out) == ([], 2)


def test_training_that_diverges_is_told_and_is_no_best_rate(world, monkeypatch):
    _, _, _, run = world
    real = study.trained

    def diverging(contestant, learned, rate):
        if rate > 1e-3:
            raise LoRA2Error("the loss became nan")
        return real(contestant, learned, rate)

    monkeypatch.setattr(study, "trained", diverging)
    found = {record["step"]: record for record in run(["lora_1"])}
    assert "nan" in found[4]["diverged"] and study.loss_of(found[4]) == math.inf
    assert study.loss_of(found[3]) < math.inf


def test_pictures_are_drawn_once_at_the_best_rate_and_with_factors_that_were_kept(
    world, monkeypatch
):
    results, cache, known, run = world
    [best] = run(["lora_1"], seeds=(0,))[:1]

    def drawn():
        pictures.go(results, cache, known, ["lora_1"], [0], 1, math.inf, JUDGES)
        return pictures.results(results, known, JUDGES)

    with monkeypatch.context() as without:
        without.setattr(pictures, "trained", None)  # nothing is trained again
        found = drawn()
        assert [record["contestant"] for record in found] == ["base", "renders", "lora_1"]
    assert all(0 <= record[score] <= 1 for record in found for score in pictures.SCORES)
    assert drawn() == found
    (results / pictures.FILE).unlink()
    for file in cache.rglob("*.safetensors"):
        file.unlink()
    for again, before in zip(drawn(), found, strict=True):  # trained again, in other threads
        scores = {name: pytest.approx(before[name], abs=1e-3) for name in pictures.SCORES}
        assert again == before | scores
    assert kept.get(cache, study.run_of(found[-1]), best["stamp"]) is not None
    text = table.markdown(run(["lora_1"]), known, found)
    assert "## Pictures" in text and "| base | 1 |" in text


def test_the_base_is_measured_without_the_adapter_even_if_that_comes_first(tiny, subjects):
    fresh = Lesson(Task("one", (subjects["mint mug"],)), 0)
    found = training.trained(CONTESTANTS["lora_16"], fresh, 0.1)
    fresh = Lesson(Task("one", (subjects["mint mug"],)), 0)
    changed = measure.losses(fresh, found.factors)
    assert measure.losses(fresh, {}) == (0, 0) and changed[0] != 0 and changed[1] != 0
