"""A budget in megabytes: never passed, spent, and shared as the learned ν say."""

from dataclasses import replace

import pytest
import torch
import toy
import toy_runs
import unet_shapes

from lora2_core.config import TrainConfig
from lora2_core.errors import LoRA2Error
from lora2_core.files.writing import write
from lora2_core.layers.importance import nu_for_rank, nu_of, rho_of
from lora2_core.methods.budget import LEAST, Budget
from lora2_core.runs.packing import pack_result

Q = 0.9


def naive_size(nus, costs, caps):
    """⌈L/ν⌉ with the slack of method.md, one component at a time."""
    total = 0
    for nu, cost, cap in zip(nus, costs, caps, strict=True):
        t = 2.302585092994046 / nu
        total += cost * min(max(1, -int(-(t - min(0.5, 0.01 * t)) // 1)), cap)
    return total


def spread(count=40, seed=0, mean=20.0):
    generator = torch.Generator().manual_seed(seed)
    ranks = mean * torch.exp(0.7 * torch.randn(count, generator=generator))
    costs = torch.randint(100, 900, (count,), generator=generator).tolist()
    caps = torch.randint(30, 200, (count,), generator=generator).tolist()
    return rho_of(2.302585 / ranks), costs, caps


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.5, 2.5])
def test_the_factor_is_common_and_the_nearest_that_fits(share):
    rho, costs, caps = spread()
    now = Budget(1.0, costs, caps, Q, 1.0).size(rho)
    limit = share * now
    budget = Budget(limit, costs, caps, Q, 1.0)
    held = budget.held(rho)
    nus = nu_of(held).tolist()
    size = naive_size(nus, costs, caps)
    assert size == budget.size(held) <= limit
    factors = [new / old for new, old in zip(nus, nu_of(rho).tolist(), strict=True)]
    free = [
        factor
        for factor, nu, cap in zip(factors, nus, caps, strict=True)
        if 1.001 * nu_for_rank(cap, Q) < nu < 0.999 * nu_for_rank(1, Q)
    ]
    assert len(free) > 10 and max(free) / min(free) == pytest.approx(1, abs=1e-4)
    # any nearer factor would be too large
    low = [nu_for_rank(cap, Q) for cap in caps]
    for nearer in (0.999, 0.99, 0.97):
        other = [
            min(max(nearer * free[0] * nu, least), nu_for_rank(1, Q))
            for nu, least in zip(nu_of(rho).tolist(), low, strict=True)
        ]
        assert naive_size(other, costs, caps) > 0.98 * limit or share > 1


def test_what_fits_already_is_left_alone():
    rho, costs, caps = spread()
    size = Budget(1.0, costs, caps, Q, 1.0).size(rho)
    bounded = Budget(size, costs, caps, Q, 1.0).held(rho)
    size = Budget(1.0, costs, caps, Q, 1.0).size(bounded)
    for share in (1.0, 0.951):
        found = Budget(size / share, costs, caps, Q, 1.0).held(bounded)
        assert torch.allclose(found, bounded, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(Budget(size / 0.94, costs, caps, Q, 1.0).held(bounded), bounded)


def test_more_than_all_caps_take_gives_the_caps():
    rho, costs, caps = spread()
    budget = Budget(
        10.0 * sum(c * k for c, k in zip(costs, caps, strict=True)), costs, caps, Q, 1.0
    )
    limits = [nu_for_rank(cap, Q) for cap in caps]
    assert nu_of(budget.held(rho)).tolist() == pytest.approx(limits, rel=2e-4)


@pytest.mark.parametrize("megabytes", [5, 30, 100, 500])
def test_on_the_shapes_of_sdxl_a_drift_of_all_ranks_stays_within_the_budget(megabytes):
    """ν driven by noise and a common pull either way, as far as Adam's steps can take it."""
    shapes = list(unet_shapes.attention_shapes(unet_shapes.SDXL).values())
    costs = [2 * (m + n) for m, n in shapes]
    caps = [min(512, m, n) for m, n in shapes]
    limit = 1e6 * megabytes
    budget = Budget(limit, costs, caps, Q, 1.0)
    generator = torch.Generator().manual_seed(0)
    start = max(1, int(limit // sum(costs)))
    rho = budget.held(rho_of(torch.full((len(costs),), nu_for_rank(start, Q))))
    steps, sizes = 200, []
    taste = torch.randn(len(costs), generator=generator)
    for step in range(steps):
        pull = 0.5 if step < steps // 2 else -0.5
        noise = torch.randn(len(costs), generator=generator)
        rho = budget.held(rho + 10 / steps * (pull + 0.5 * taste + 0.5 * noise).clamp(-1, 1))
        sizes.append(budget.size(rho))
    assert max(sizes) <= limit
    assert min(sizes[steps // 2 :]) >= 0.9 * limit
    assert all(abs(size / sizes[-1] - 1) <= 0.05 for size in sizes[steps // 2 :])
    assert min(sizes[10:]) >= LEAST * 0.97 * limit


@pytest.mark.parametrize("importance", ["printed", "unit_energy"])
@pytest.mark.parametrize(
    ("megabytes", "precision"), [(0.022, "fp16"), (0.06, "fp16"), (0.1, "fp32")]
)
def test_the_file_is_at_most_the_budget_and_nearly_that(megabytes, precision, importance, tmp_path):
    config = replace(
        toy_runs.BASE, steps=60, budget_mb=megabytes, budget_precision=precision, r_init=2, r_max=2,
        rank_rate=6.0, rank_freeze=0.1, importance=importance,
    )  # fmt: skip
    seen = []
    result = toy_runs.run(config, toy.ToyDenoiser(width=64), on_step=seen.append)
    path = write(pack_result(result), tmp_path / "a.safetensors", precision=precision)
    size = path.stat().st_size
    assert size <= 1e6 * megabytes
    spare = 2600  # for words that a run may carry in its file
    assert size >= 0.9 * 1e6 * megabytes - spare
    ranks = [rank for _, rank in result.ranks.values()]
    assert len(set(ranks)) > 1 and max(ranks) > 2
    if precision == "fp16":
        for info in seen[len(seen) // 2 :]:
            assert 1e6 * info.megabytes - spare == pytest.approx(size, rel=0.05, abs=spare / 2)


def test_the_bytes_beside_the_rows_do_not_depend_on_the_hour(monkeypatch):
    """The file has dates; a run that goes on later must still count the same."""
    found = []
    for now in (1e9, 1.7e9 + 0.123456, 1.7e9):
        monkeypatch.setattr("lora2_core.files.metadata.time.time", lambda now=now: now)
        seen = []
        toy_runs.run(replace(toy_runs.BASE, steps=1, budget_mb=0.03), on_step=seen.append)
        found.append(seen[0].overhead)
    assert len(set(found)) == 1


def test_the_rank_term_has_no_say():
    config = replace(toy_runs.BASE, budget_mb=0.03)
    one, other = (toy_runs.run(replace(config, lambda_r=value)) for value in (0.0, 1.0))
    assert toy_runs.same_bits(one, other)


def test_less_than_rank_1_is_refused_with_what_it_takes():
    with pytest.raises(
        LoRA2Error, match=r"budget_mb is 0\.001, but rank 1 in each of 16 layers"
    ) as e:
        toy_runs.run(replace(toy_runs.BASE, budget_mb=0.001))
    least = float(str(e.value).split("takes ")[1].split(" MB")[0])
    toy_runs.run(replace(toy_runs.BASE, steps=1, budget_mb=least))


@pytest.mark.parametrize("method", ["lora", "ac_lora"])
def test_other_methods_have_no_budget(method):
    with pytest.raises(LoRA2Error, match="budget_mb is 5"):
        TrainConfig(method=method, budget_mb=5.0)
    with pytest.raises(LoRA2Error, match="budget_mb is -1"):
        TrainConfig(budget_mb=-1.0)
