"""benchmarks/tradeoff: its statistics, its store, its cuts, and one tiny run of it all."""

import json
import math
import random
from dataclasses import asdict
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from tradeoff import (
    adaptivity,
    cutting,
    denoising,
    identity,
    individuals,
    intervals,
    lesson,
    measure,
    pareto,
    reader,
    schedule,
    store,
    table,
    tune,
    watch,
)
from tradeoff.contestants import CONTESTANTS, FIXED

from lora2_core.config import TrainConfig
from lora2_core.demo_model import bundled
from lora2_core.drawn_world import load_subjects
from lora2_core.errors import LoRA2Error

SUBJECTS = load_subjects()


# intervals


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 8, 30])
def test_the_t_quantile_holds_95_per_cent_of_the_density(freedom):
    """Against the density, summed numerically."""
    limit = intervals.t_quantile(freedom)
    x = np.linspace(-limit, limit, 200_001)
    norm = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    density = norm * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    assert np.trapezoid(density, x) == pytest.approx(0.95, abs=1e-4)


def naive_interval(values):
    """Average the seeds, then the textbook formula with a quantile from a printed table."""
    quantile = {2: 4.302653, 5: 2.570582}
    subjects = sorted({subject for subject, _ in values})
    means = [fmean(v for (s, _), v in values.items() if s == subject) for subject in subjects]
    return fmean(means), quantile[len(means) - 1] * stdev(means) / len(means) ** 0.5


@pytest.mark.parametrize("count", [3, 6])
def test_an_interval_over_subjects_equals_its_naive_twin(count):
    rng = random.Random(count)
    values = {(f"s{i}", seed): rng.gauss(i, 1) for i in range(count) for seed in range(3)}
    found = intervals.over_subjects(values)
    assert (found.mean, found.half) == pytest.approx(naive_interval(values), rel=1e-6)
    assert found.count == count


def test_more_seeds_of_a_subject_are_no_more_subjects():
    once = {("a", 0): 1.0, ("b", 0): 2.0}
    often = {(s, seed): v for (s, _), v in once.items() for seed in range(50)}
    assert intervals.over_subjects(often) == intervals.over_subjects(once)


def test_a_paired_difference_takes_away_what_the_subjects_share():
    rng = random.Random(0)
    ours = {(f"s{i}", seed): 100.0 * i + rng.gauss(0, 0.1) for i in range(6) for seed in range(3)}
    theirs = {key: value + 1 for key, value in ours.items()} | {("only here", 0): 5.0}
    gap = intervals.paired(ours, theirs)
    assert gap.mean == pytest.approx(-1) and gap.half < 1e-9 and gap.clear
    assert intervals.over_subjects(ours).half > 100
    assert intervals.paired(ours, {}) is None
    assert not intervals.over_subjects({("a", 0): 3.0}).clear


# whether ranks follow the subject


def test_the_share_between_subjects_is_1_without_noise_and_about_0_without_subjects():
    rng = random.Random(0)
    keys = [(f"s{i}", seed) for i in range(40) for seed in range(4)]
    assert adaptivity.share_between({k: float(k[0][1:]) for k in keys}) == 1
    assert abs(adaptivity.share_between({k: rng.gauss(0, 1) for k in keys})) < 0.15
    effect = {k[0]: rng.gauss(0, 1) for k in keys}
    half = adaptivity.share_between({k: effect[k[0]] + rng.gauss(0, 1) for k in keys})
    assert 0.3 < half < 0.7
    assert adaptivity.share_between({("a", 0): 1.0, ("b", 0): 2.0}) is None


def test_rank_correlation():
    assert adaptivity.spearman([1, 2, 3], [10, 200, 3000]) == pytest.approx(1)
    assert adaptivity.spearman([1, 2, 2, 3], [4, 3, 3, 1]) == pytest.approx(-1)
    assert adaptivity.spearman([1, 2], [5, 5]) is None


def test_what_sets_a_subject_apart_is_counted():
    assert adaptivity.complexity(SUBJECTS["mint mug"]) == 0
    assert adaptivity.complexity(SUBJECTS["star robot"]) == 6


# fixed noise and times


def test_times_are_even_over_the_schedule_for_the_whole_set_and_for_every_scene():
    times = denoising.stratified(6, 4, 1000, 0)
    assert sorted(times.flatten().tolist()) == [int((i + 0.5) * 1000 / 24) for i in range(24)]
    assert [set((row // 250).tolist()) for row in times] == [{0, 1, 2, 3}] * 6
    assert torch.equal(times, denoising.stratified(6, 4, 1000, 0))


# cuts


def factors():
    generator = torch.Generator().manual_seed(0)
    ranks = {"a": 6, "b": 3}
    return {
        name: (torch.randn(r, 8, generator=generator), torch.randn(10, r, generator=generator))
        for name, r in ranks.items()
    }


def product(found, name):
    down, up = found[name]
    return up @ down


def test_a_cut_spends_no_more_than_its_budget_and_svd_loses_less_than_a_prefix():
    whole = factors()
    budget = cutting.parameters(whole) // 2
    lost = {}
    for how in ("svd", "prefix"):
        small = cutting.cut(whole, budget, how, even=True)
        assert cutting.parameters(small) <= budget
        lost[how] = sum((product(whole, n) - product(small, n)).square().sum() for n in whole)
    assert lost["svd"] < lost["prefix"]
    least = cutting.cut(whole, 0, "svd", even=False)
    assert set(cutting.ranks(least).values()) == {1}


def test_a_cut_to_its_own_size_changes_nothing():
    whole = factors()
    same = cutting.cut(whole, cutting.parameters(whole), "svd", even=False)
    assert all(torch.allclose(product(whole, n), product(same, n), atol=1e-5) for n in whole)


def test_the_budget_of_a_share_of_the_energy_keeps_it_and_no_direction_more():
    whole = factors()
    total = sum(product(whole, n).square().sum() for n in whole)
    kept = []
    for budget in (cutting.energy_budget(whole, 0.8), cutting.energy_budget(whole, 0.8) - 18):
        small = cutting.cut(whole, budget, "svd", even=False)
        kept.append(sum(product(small, n).square().sum() for n in whole) / total)
    assert kept[0] >= 0.8 > kept[1]
    assert cutting.energy_budget(whole, 1.0) == cutting.parameters(whole)


# tuning


@pytest.fixture
def tiny(monkeypatch):
    """Probes of a few pictures."""
    for name in ("_SUBJECT", "_GENERAL", "_KIND"):
        monkeypatch.setattr(lesson, name, (2, 2))
    caches = (
        lesson._general,
        lesson._kind,
        measure._reader,
        measure._identity,
        measure._portrait,
        tune._lesson,
    )
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_the_search_leaves_the_grid_until_its_best_is_inside():
    tried = []

    def loss_of(rate):
        tried.append(rate)
        return (math.log10(rate) + 1) ** 2  # best at 0.1

    best = tune.search(loss_of)
    assert 0.05 < best < 0.2 and max(tried) > best > min(tried)
    assert tune.search(lambda rate: rate) >= tune.LIMITS[0]
    assert tune.search(lambda rate: math.inf if rate > 5e-4 else -rate) == 3e-4


def test_of_equal_losses_the_smaller_file_is_preferred_and_then_the_default():
    tried = {
        1: {"subject": -0.300, "parameters": 9},
        2: {"subject": -0.295, "parameters": 4},
        3: {"subject": -0.296, "parameters": 4},
        4: {"subject": -0.200, "parameters": 1},
    }
    assert tune.preferred(tried, 3) == 3
    assert tune.preferred(tried, 1) == 2


def test_settings_are_tried_at_the_rate_of_their_scale():
    rates = {"paper": 1.0, "paper_fan_in": 2.0, "nu_term": 3.0}
    assert tune._rate_for({"rank_hold": 0.3}, rates) == 1.0
    assert tune._rate_for({"init": "fan_in"}, rates) == 2.0
    assert tune._rate_for({"init": "fan_in", "importance": "unit_energy"}, rates) == 3.0
    assert tune._rate_for({"importance": "unit_energy"}, rates) == 1.0  # not tuned
    assert set(tune._SAME_SCALE.values()) <= CONTESTANTS.keys()


def test_rates_that_were_tuned_on_other_weights_are_refused(tmp_path):
    record = {"stamp": {"weights": "others"}, "rates": {"lora2": 1e-3}, "settings": {}}
    store.write(tmp_path / "tuning.json", record)
    with pytest.raises(LoRA2Error, match="run `tune` first"):
        tune.load(tmp_path)
    with pytest.raises(LoRA2Error, match="lora_4 has no learning rate"):
        tune.Choices({"lora2": 1e-3}, {}).config(CONTESTANTS["lora_4"], 10, 0)


def test_the_base_is_measured_without_the_adapter_even_if_that_comes_first(tiny):
    fresh = lesson.Lesson(SUBJECTS["mint mug"], 0)
    modules = lesson.model().unet.named_modules()
    name, layer = next((n, m) for n, m in modules if n.endswith("attn2.to_out.0"))
    name = lesson.denoiser().module_name(name)
    change = {name: (torch.ones(1, layer.in_features), torch.ones(layer.out_features, 1))}
    changed, base = measure.losses(fresh, change), measure.losses(fresh, {})
    for probe in ("subject", "general", "kind"):
        assert changed[probe]["base"] == base[probe]["base"] == base[probe]["loss"]
        assert changed[probe]["loss"] != base[probe]["loss"]


def test_tuning_stops_in_time_goes_on_and_keeps_its_evidence(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "SEEDS", (0,))
    monkeypatch.setattr(tune, "LIMITS", (2e-4, 4e-3))
    monkeypatch.setattr(tune, "AXES", {"rank_hold": (0.0, 0.5)})
    subject, names = SUBJECTS["mint mug"], ["base", "lora2", "paper", "tuned"]

    def tuned(deadline=math.inf):
        tune.tune(tmp_path, subject, names, 2, 1, deadline)
        return store.read(tmp_path / "tuning.json")

    assert tuned(deadline=0)["rates"] == {}
    record = tuned()
    assert record["rates"].keys() == {"lora2", "paper", "tuned"}
    tried = record["evidence"]["lora2"]
    assert len(tried) >= 3
    best = min(tried, key=lambda rate: tried[rate]["subject"])
    assert record["rates"]["lora2"] == float(best)
    assert record["evidence"]["tuned"].keys() == {"default", "rank_hold 0.5"}
    choices = tune.load(tmp_path)
    assert choices.config(CONTESTANTS["tuned"], 2, 0).rank_hold in (0.0, 0.5)
    monkeypatch.setattr(tune, "train", None)
    assert tuned() == record


def test_every_contestant_is_a_valid_configuration():
    choices = tune.Choices(dict.fromkeys(CONTESTANTS, 1e-3), {"rank_hold": 0.1})
    configs = {
        name: choices.config(contestant, 300, 0)
        for name, contestant in CONTESTANTS.items()
        if contestant.trained
    }
    assert [configs[f"lora_{r}"].r_init for r in FIXED] == list(FIXED)
    assert configs["tuned"].rank_hold == 0.1
    for contestant in CONTESTANTS.values():
        if contestant.cutting:
            assert CONTESTANTS[contestant.cutting.parent].trained


# the store


def test_a_result_of_another_stamp_is_no_result(tmp_path):
    path = store.run_file(tmp_path, "lora2", "star robot", 1)
    assert path.name == "lora2.star-robot.1.json"
    store.write(path, {"stamp": {"weights": "a"}})
    assert store.read(path, {"weights": "a"}) and store.read(path, {"weights": "b"}) is None
    assert store.read(tmp_path / "none.json") is None
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_setting_that_is_new_does_not_make_old_results_void(tmp_path):
    made = asdict(TrainConfig(steps=7))
    older = {name: value for name, value in made.items() if name != "rank_hold"}
    path = tmp_path / "a.json"
    for wrap in (lambda s: s, lambda s: {"parent": "lora2", "of": {"lora2": s}}):
        store.write(path, {"stamp": {"settings": wrap(older)}})
        assert store.read(path, {"settings": wrap(made)})
        assert store.read(path, {"settings": wrap({**made, "rank_hold": 0.2})}) is None
        assert store.read(path, {"settings": wrap({**made, "steps": 8})}) is None


def test_a_result_with_pictures_will_do_where_none_are_asked_for(tmp_path):
    path = tmp_path / "a.json"
    store.write(path, {"stamp": {"judges": "x", "steps": 1}})
    assert store.read(path, {"judges": None, "steps": 1})
    assert store.read(path, {"judges": None, "steps": 2}) is None
    assert store.read(path, {"judges": "y", "steps": 1}) is None
    store.write(path, {"stamp": {"judges": None, "steps": 1}})
    assert store.read(path, {"judges": "x", "steps": 1}) is None


def test_runs_are_made_once_and_again_for_other_weights(tiny, tmp_path, monkeypatch):
    steps = 2
    stamp = {"weights": store.weights_stamp()}
    rates = {"lora_1": 1e-3, "lora_16": 1e-3, "lora2": 1e-3}
    store.write(tmp_path / "tuning.json", {"stamp": stamp, "rates": rates, "settings": {}})
    names = ["base", "lora_1", "lora2", "lora_16_cut"]

    def made(deadline=math.inf):
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*")}
        subject = SUBJECTS["mint mug"]
        schedule.run(tmp_path, None, [subject], [0], names, steps, 1, deadline)
        after = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*")}
        return sorted(p.name.split(".")[0] for p in after if after[p] != before.get(p))

    assert made(deadline=0) == []
    assert made() == sorted(names)
    assert made() == []
    store.run_file(tmp_path, "lora_1", "mint mug", 0).unlink()
    assert made() == ["lora_1"]

    record = json.loads(store.run_file(tmp_path, "lora2", "mint mug", 0).read_text())
    assert len(record["ranks"]) == 120 and record["trajectory"]["steps"] == [1, 2]
    assert len(record["pull"]["mean"]) == 120
    cut = json.loads(store.run_file(tmp_path, "lora_16_cut", "mint mug", 0).read_text())
    assert 0.95 * record["parameters"] <= cut["parameters"] <= record["parameters"]
    base = json.loads(store.run_file(tmp_path, "base", "mint mug", 0).read_text())
    assert all(loss["relative"] == 0 for loss in base["losses"].values())
    for path in (tmp_path / "runs").iterdir():
        assert path.stat().st_size < 10_000

    found, refused = store.collect(tmp_path, SUBJECTS, steps)
    assert len(found) == len(names) and not refused
    assert store.collect(tmp_path, SUBJECTS, steps + 1)[0] == []
    assert "lora_16_cut" in table.markdown(found, SUBJECTS)

    checksum = tmp_path / "other.sha256"
    checksum.write_text("f" * 64)
    monkeypatch.setattr(bundled, "CHECKSUM", checksum)
    assert store.collect(tmp_path, SUBJECTS, steps)[0] == []
    with pytest.raises(LoRA2Error, match="run `tune` first"):
        made()


# what is read of pictures


def test_twins_differ_and_families_are_of_one_kind():
    for seed in range(30):
        family = individuals.family(seed)
        assert len({one.kind for one in family}) == 1
        assert len(set(family)) == individuals.FAMILY
        assert individuals.family(seed) == family


def test_the_contrastive_loss_equals_its_naive_twin():
    generator = torch.Generator().manual_seed(0)
    found = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
    owner = torch.tensor([0, 0, 0, 1, 1, 1])
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        everyone = sum(math.exp(found[i] @ found[j] / 0.1) for j in others)
        same = [j for j in others if owner[j] == owner[i]]
        shares = [math.exp(found[i] @ found[j] / 0.1) / everyone for j in same]
        total -= fmean(map(math.log, shares))
    assert identity.contrastive(found, owner).item() == pytest.approx(total / 6, rel=1e-5)


def test_only_what_was_asked_for_is_read():
    scenes = lesson.Lesson(SUBJECTS["star robot"], 0).asked
    assert [s.accessory is not None for s in scenes] == [False, False, True, True, False, False]
    assert [s.colour is not None for s in scenes] == [False] * 4 + [True] * 2
    pictures = np.zeros((6, 128, 128, 3), np.uint8)
    found = reader.read(reader.Judge().eval(), pictures, scenes)
    assert found.keys() == {"background", "accessory", "colour"}
    assert len({s.background for s in scenes}) == 6


def test_a_portrait_knows_its_subject_by_its_renders():
    network = identity.Identity().eval()
    renders = individuals.views(SUBJECTS["mint mug"], random.Random(0), 2)
    found = identity.Portrait(network, SUBJECTS["mint mug"], renders).read(renders)
    assert 0.9 < found["likeness"] <= 1.0001 and 0 <= found["identified"] <= 1


# table and picture


def record(name, subject, seed, rel, parameters=1000, ranks=(1, 2)):
    losses = {probe: {"relative": rel} for probe in ("subject", "general", "kind")}
    return {
        "contestant": name, "subject": subject, "seed": seed, "losses": losses,
        "parameters": parameters, "ranks": list(ranks), "seconds": {"training": 1.0},
        "stamp": {"settings": {"lambda_r": 1e-4}},
        "pictures": {
            "likeness": 0.5, "identified": 0.5, "background": 1.0, "accessory": 1.0, "colour": 0.0
        },
    }  # fmt: skip


@pytest.fixture
def records():
    found = []
    for i, subject in enumerate(list(SUBJECTS)[:6]):
        for seed in range(3):
            found += [
                record("lora2", subject, seed, -0.3 - 0.01 * i, 1000, (i + 1, i + 2 + seed % 2)),
                record("lora_1", subject, seed, -0.1 - 0.01 * i, 500),
                record("lora_16", subject, seed, -0.31 - 0.01 * i, 4000),
            ]
    return found


def test_the_table_answers_the_question_and_marks_what_is_clear(records):
    text = table.markdown(records, SUBJECTS, ["one.json"])
    assert "best fixed rank is lora_16. Against it lora2 takes 0.25 of the bytes" in text
    assert "fidelity **+1.00 ± 0.00**" in text
    assert "1 results of other weights" in text
    row = next(line for line in text.splitlines() if line.startswith("| lora_1 |"))
    assert "**+20.00 ± 0.00**" in row
    ranks = text[text.index("Mean rank by subject") :]
    assert next(line for line in ranks.splitlines() if line.startswith("| lora2 |"))


def test_a_table_of_a_few_runs_is_still_a_table(records):
    for count in (1, 2, 5):
        assert "runs" in table.markdown(records[:count], SUBJECTS)


def test_the_picture_shows_differences_from_the_default_and_bytes(records):
    found = pareto.points(records, "subject")
    assert found["lora2"][1:] == (0.0, 0.0)
    assert all(size > 0 for size, *_ in found.values()) and "base" not in found


def test_the_picture_is_drawn(records, tmp_path):
    pytest.importorskip("matplotlib")
    pareto.draw(records, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 10_000


# the watch


def test_frames_of_a_run_are_even_and_have_both_ends():
    assert watch._spread(3, 8) == [0, 1, 2]
    found = watch._spread(300, 8)
    assert found[0] == 0 and found[-1] == 299 and len(set(found)) == 8
