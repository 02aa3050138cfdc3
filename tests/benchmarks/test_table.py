"""The table and the picture, of made-up results."""

import random

import pytest
from tradeoff import best, pareto, table, tasks
from tradeoff.contestants import CONTESTANTS, rate


def record(task, name, seed, step, fidelity, size=200_000, rank=3.0):
    whole = [size, fidelity, -fidelity / 5]
    cuts = {"whole": whole, "whole ×0.85": [size, 0.8 * fidelity, -fidelity / 9]}
    for share in (0.999, 0.99):
        cuts[f"effect {share:g}"] = [size * share // 2, fidelity * share, -fidelity / 6]
    for thousand in (61, 31, 15):
        if thousand * 1000 < size:
            cuts[f"effect {thousand}k"] = [thousand * 1000, fidelity + 1, -fidelity / 7]
            cuts[f"σ {thousand}k"] = [thousand * 1000, fidelity + 3, -fidelity / 8]
    return {
        "task": task, "contestant": name, "seed": seed, "step": step, "rate": rate(step),
        "stamp": "x", "mean_rank": rank, "saved_rank": rank / 2, "seconds": 30.0, "cuts": cuts,
    }  # fmt: skip


@pytest.fixture
def known(subjects):
    return tasks.tasks(subjects)


@pytest.fixture
def records(known):
    rng = random.Random(0)
    found = []
    for place, task in enumerate(known):
        for seed in range(3):
            noise = rng.gauss(0, 0.5)
            for step in (3, 4, 5):
                worse = (step - 4) ** 2
                found += [
                    record(task, "lora2", seed, step, noise + worse - 20, rank=place + seed % 2),
                    record(task, "lora_1", seed, step, noise + worse - 18, 30_720, 1.0),
                    record(task, "lokr", seed, step, noise + worse - 20.5, 124_800, 128.0),
                ]
    return found


def row_of(text, section, name):
    part = text[text.index(section) :]
    return next(line for line in part.splitlines() if line.startswith(f"| {name} |"))


def test_the_best_rate_is_that_of_the_best_mean_among_those_of_most_seeds():
    found = [record("a", "lora2", seed, step, -step) for seed in (0, 1) for step in (3, 4)]
    found.append(record("a", "lora2", 0, 9, -99))  # at one seed alone
    found.append({"task": "a", "contestant": "lora2", "seed": 1, "step": 9, "diverged": "NaN"})
    runs = best.best_runs(found, "a", "lora2")
    assert {seed: run["step"] for seed, run in runs.items()} == {0: 4, 1: 4}
    assert best.best_runs(found, "a", "lora_1") == {}


def test_a_rate_whose_search_has_not_ended_is_marked(records, known):
    text = table.markdown(records, known)
    assert "| 0.001 | 3 |" in row_of(text, "## style", "lora2")
    earlier = [r for r in records if (r["contestant"], r["step"]) != ("lora2", 5)]
    assert "| 0.001? | 3 |" in row_of(table.markdown(earlier, known), "## style", "lora2")


def test_differences_are_paired_and_marked_where_clear(records, known):
    text = table.markdown(records, known, left_out=2)
    assert "54 runs" not in text and f"{len(records)} runs, 6 tasks, 3 seeds; 2 results" in text
    own = row_of(text, "## 1: mint mug", "lora_1")
    assert "| 3 | 0.061 | 1.00 |" in own and "**+1.98 ± 0.00**" in own
    assert "| 1.50 |" not in own
    # at 31k: rank 1 is there as a whole, and the reference cut
    assert "**+1.00 ± 0.00**" in row_of(text, "1: mint mug: cut to 31k", "lora_1")
    assert row_of(text, "mint mug: at equal fidelity", "lokr").count("|") == 7
    assert "**+1.98 ± 0.00**" in row_of(text, "## Over all tasks", "lora_1")
    between = float(row_of(text, "## Mean rank by task", "lora2").split("|")[-2])
    assert 0.5 < between < 1


def test_the_file_and_not_the_uncut_adapter_is_what_is_compared(records, known):
    text = table.markdown(records, known)
    file, uncut = (row_of(text, "## style", name) for name in ("lora2", "lora2, uncut"))
    assert "| 0.200 |" in file and "| 0.400 |" in uncut
    assert "± 0.00**" in uncut


def test_forgetting_is_compared_where_both_are_as_faithful(records):
    found = table.equal_fidelity(records, "style", "lora_1")
    for (_, seed), (level, ours, theirs) in found.items():
        assert level == min(
            r["cuts"]["whole"][1]
            for r in records
            if (r["task"], r["contestant"], r["seed"]) == ("style", "lora_1", seed)
        )
        assert ours < -level / 5 == pytest.approx(theirs)


def test_a_table_of_a_few_runs_is_still_a_table(records, known):
    for count in (1, 2, 5, 40):
        assert "## Over all tasks" in table.markdown(records[:count], known)
    without = [r for r in records if r["contestant"] != "lora2"]
    assert "| lokr |" in table.markdown(without, known)
    diverged = {**record("style", "lora_4", 0, 4, 0), "diverged": "NaN"}
    del diverged["cuts"]
    assert "1 diverged" in table.markdown([*records, diverged], known)
    assert "1 diverged" in table.markdown([diverged], known)


def test_the_picture_has_sizes_from_the_whole_down(records):
    line = pareto.by_size(records, "style", "lora2", 1)
    assert [size for size, _ in line] == sorted((size for size, _ in line), reverse=True)
    assert (line[0][0], line[-1][0]) == pytest.approx((0.4, 0.03))


@pytest.mark.parametrize("count", [1, 1000])
def test_the_picture_is_drawn(records, known, tmp_path, count):
    pytest.importorskip("matplotlib")
    pareto.draw(records[:count], known, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 10_000


def test_every_contestant_has_a_colour():
    assert pareto._COLOURS.keys() == CONTESTANTS.keys()
