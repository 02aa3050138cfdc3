"""Other libraries' optimisers over rows that come and go."""

import sys

import pytest
import torch
from torch import nn

from lora2_core.config import TrainConfig
from lora2_core.errors import LoRA2Error
from lora2_core.layers.adapter import Adapter
from lora2_core.optimizers import make_optimizer
from lora2_core.optimizers.adamw8bit import _cut

CPU = torch.device("cpu")
N, M = 640, 384  # neither a whole number of blocks; a few rows are enough for 8 bits
DECAY = 0.1
RATES = {"adafactor": 1e-2, "prodigy": 1.0, "adamw8bit": 1e-2}
LIBRARIES = {"adafactor": "transformers", "prodigy": "prodigyopt", "adamw8bit": "bitsandbytes"}


class Bench:
    """One adapter with its optimiser, driven by random gradients of known seed."""

    def __init__(self, kind, rank):
        pytest.importorskip(LIBRARIES[kind])
        torch.manual_seed(0)
        self.adapter = Adapter("layer", nn.Linear(N, M, bias=False), CPU, moments=False)
        self.adapter.set_rank(rank, torch.randn(rank, N), torch.randn(rank, M))
        self.rho = nn.Parameter(torch.tensor([0.3, -0.2]))
        config = TrainConfig(
            optimizer=kind, learning_rate=RATES[kind], steps=100, rank_rate=50.0, weight_decay=DECAY
        )
        self.optimizer = make_optimizer(config, [self.adapter], self.rho)
        self.generator = torch.Generator().manual_seed(1)

    @property
    def rows(self):
        return self.adapter.a, self.adapter.b

    def step(self, grads=None):
        if grads is None:
            grads = [torch.randn(r.active.shape, generator=self.generator) for r in self.rows]
        for rows, grad in zip(self.rows, grads, strict=True):
            rows.active.grad = grad.clone()
        self.optimizer.share_gradients()
        self.optimizer.stepped.step()
        self.optimizer.applied()
        self.optimizer.zero_grad()
        return grads

    def resize(self, rank, patience=10**9):
        adapter = self.adapter
        self.optimizer.before_change([0])
        count = max(rank - adapter.filled, 0)
        new = [torch.randn(count, width, generator=self.generator) for width in (N, M)]
        adapter.set_rank(rank, *new)
        moved = adapter.give_back(patience)
        self.optimizer.follow([0])
        return moved

    def state(self):
        """Everything that is kept of every row, active or not, by place and name."""
        tensors, facts = self.optimizer.extra_state()
        return {k: v.clone() for k, v in tensors.items()}, facts["pieces"][0]

    def pieces(self):
        return [(start, stop, rest["step"]) for start, stop, rest in self.state()[1][0] if rest]


KINDS = pytest.mark.parametrize("kind", RATES)


@KINDS
def test_at_one_rank_it_is_the_librarys_own_to_the_bit(kind):
    bench = Bench(kind, 12)
    twins = [nn.Parameter(rows.active.detach().clone()) for rows in bench.rows]
    library = type(bench.optimizer).make(twins, RATES[kind], DECAY)
    for _ in range(12):
        for twin, grad in zip(twins, bench.step(), strict=True):
            twin.grad = grad.clone()
        library.step()
    for rows, twin in zip(bench.rows, twins, strict=True):
        assert torch.equal(rows.active, twin)
    assert bench.optimizer.ages(0) == [12] * 12


@KINDS
def test_dormant_rows_and_what_is_kept_of_them_stay_as_they_are(kind):
    bench = Bench(kind, 12)
    for _ in range(5):
        bench.step()
    bench.resize(5)
    values = [rows.values[5:12].clone() for rows in bench.rows]
    before, _ = bench.state()
    for _ in range(5):
        bench.step()
    for rows, old in zip(bench.rows, values, strict=True):
        assert torch.equal(rows.values[5:12], old)
    after, _ = bench.state()
    dormant = [key for key in before if key.split(".")[2] == "1"]
    assert dormant and all(torch.equal(before[key], after[key]) for key in dormant)
    assert any(not torch.equal(before[key], after[key]) for key in before.keys() - set(dormant))
    assert bench.pieces() == [(0, 5, 10), (5, 12, 5)]
    assert bench.optimizer.ages(0) == [10] * 5 + [5] * 7
    bench.resize(12)
    assert bench.optimizer.ages(0) == [10] * 5 + [5] * 7
    bench.step()
    assert bench.pieces() == [(0, 5, 11), (5, 12, 6)]


@KINDS
@pytest.mark.parametrize("rank", [15, 3])
def test_state_of_surviving_rows_is_unchanged_by_a_resize_and_by_memory_given_back(kind, rank):
    bench = Bench(kind, 14)
    for _ in range(5):
        bench.step()
    before, _ = bench.state()
    assert bench.resize(rank, patience=0) == (rank == 3)
    after, _ = bench.state()
    assert after.keys() >= before.keys()
    for key, then in before.items():
        _, side, _, name = key.split(".")
        numbers = min(14, rank) * (N, M)[int(side)]
        if name.startswith("absmax"):
            numbers //= 256
        elif name.startswith("state"):
            numbers = numbers // 256 * 256  # the last block may have to be quantised again
        count = min(numbers, after[key].numel())
        assert count > 0 or name == "p0"
        assert torch.equal(after[key].flatten()[:count], then.flatten()[:count])
    # of the dormant rows, those beyond the memory for 8 are forgotten
    assert bench.pieces() == {15: [(0, 14, 5)], 3: [(0, 3, 5), (3, 8, 5)]}[rank]


@KINDS
def test_a_new_row_begins_like_the_first_ones(kind):
    """Row 0 has moved 300 times; with a shared count of steps row 3 would jump."""
    bench = Bench(kind, 3)
    for _ in range(300):
        bench.step()
    bench.resize(5)
    assert bench.optimizer.fresh(0) == [(3, 5)]
    for rows in bench.rows:
        with torch.no_grad():
            rows.values[3:5] = 0  # no decay
    before = [rows.active.detach().clone() for rows in bench.rows]
    bench.step()
    rate = RATES[kind] * bench.optimizer.inner.param_groups[0].get("d", 1.0)
    for rows, old in zip(bench.rows, before, strict=True):
        moved = (rows.active - old)[3:]
        size = moved.square().mean().sqrt() if kind == "adafactor" else moved.abs().max()
        assert 0.5 * rate <= size <= 1.01 * rate
    assert bench.optimizer.fresh(0) == []
    assert bench.optimizer.ages(0) == [301] * 3 + [1] * 2


@KINDS
def test_rows_that_are_forgotten_begin_anew(kind):
    bench = Bench(kind, 6)
    for _ in range(3):
        bench.step()
    bench.optimizer.forget_moments([0])
    assert bench.optimizer.ages(0) == [0] * 6 and bench.optimizer.fresh(0) == [(0, 6)]
    bench.step()
    assert bench.pieces() == [(0, 6, 1)]


@KINDS
def test_rho_is_moved_by_adamw_at_its_own_rate_and_no_moments_are_kept_with_the_rows(kind):
    bench = Bench(kind, 2)
    bench.optimizer.set_rate(0.25)
    before = bench.rho.detach().clone()
    bench.rho.grad = torch.tensor([1e-3, 0.0])
    bench.step()
    torch.testing.assert_close(bench.rho - before, torch.tensor([-0.5, 0.0]), rtol=1e-4, atol=0)
    bench.optimizer.stop_momentum(torch.tensor([True, False]))
    assert bench.optimizer.rho_state()["exp_avg"].tolist() == [0.0, 0.0]
    assert bench.optimizer.inner.param_groups[0]["lr"] == 0.25
    assert all(rows.exp_avg.numel() == rows.exp_avg_sq.numel() == 0 for rows in bench.rows)


def test_adafactor_equals_its_equations_piece_by_piece():
    """Algorithm 4 of the paper, at a rate that is given."""
    bench = Bench("adafactor", 4)
    pieces = [[[rows.active.detach().double().clone(), None, None, 0]] for rows in bench.rows]

    def naive(piece, grad):
        value, row, column, count = piece
        count += 1
        keep = 1 - count**-0.8
        square = grad.double() ** 2 + 1e-30
        row = square.mean(1) if row is None else keep * row + (1 - keep) * square.mean(1)
        column = square.mean(0) if column is None else keep * column + (1 - keep) * square.mean(0)
        update = grad.double() / (row[:, None] * column[None] / row.mean()).sqrt()
        update = update / max(1.0, update.square().mean().sqrt().item())
        return [value - 1e-2 * DECAY * value - 1e-2 * update, row, column, count]

    def both(times):
        for _ in range(times):
            for side, grad in zip(pieces, bench.step(), strict=True):
                start = 0
                for number, piece in enumerate(side):
                    stop = start + len(piece[0])
                    if stop <= len(grad):
                        side[number] = naive(piece, grad[start:stop])
                    start = stop

    both(6)
    bench.resize(2)  # each half goes on by itself
    for side in pieces:
        [(value, row, column, count)] = side
        side[:] = [[value[:2], row[:2], column, count], [value[2:], row[2:], column, count]]
    both(4)
    bench.resize(7)
    for side, rows in zip(pieces, bench.rows, strict=True):
        side.append([rows.values[4:7].double().clone(), None, None, 0])
    both(4)
    for side, rows in zip(pieces, bench.rows, strict=True):
        wanted = torch.cat([piece[0] for piece in side])
        torch.testing.assert_close(rows.active.double(), wanted, rtol=1e-5, atol=1e-6)


def ratio(bench):
    group = bench.optimizer.inner.param_groups[0]
    states = bench.optimizer.inner.state
    return group["d_numerator"] / sum(states[p]["s"].abs().sum().item() for p in group["params"])


@pytest.mark.parametrize("ranks", [(3,), (3, 12), (2, 9, 1), (20,)])
def test_prodigys_estimate_does_not_jump_when_rows_come_and_go(ranks):
    bench = Bench("prodigy", 12)
    pull = [rows.active.detach().clone() for rows in bench.rows]
    for _ in range(30):  # a steady pull, so that there is progress to measure
        bench.step(pull)
    before = ratio(bench)
    assert before > 0
    for rank in ranks:
        numerator = bench.optimizer.inner.param_groups[0]["d_numerator"]
        bench.resize(rank)
        if rank < 12:
            assert bench.optimizer.inner.param_groups[0]["d_numerator"] != numerator
        states = bench.optimizer.inner.state
        params = bench.optimizer.inner.param_groups[0]["params"]
        total = sum(states[p]["s"].abs().sum().item() for p in params if p in states)
        found = bench.optimizer.inner.param_groups[0]["d_numerator"] / total
        assert found == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_eight_bit_moments_survive_a_cut(at):
    functional = pytest.importorskip("bitsandbytes.functional")
    table = functional.create_dynamic_map(signed=True)
    values = torch.randn(6, 640, generator=torch.Generator().manual_seed(0))
    codes, how = functional.quantize_blockwise(values, code=table, blocksize=256)
    (low, low_scales), (high, high_scales) = _cut(codes, how.absmax, table, at)

    def real(codes, scales):
        return functional.dequantize_blockwise(codes, absmax=scales, code=table, blocksize=256)

    whole = real(codes, how.absmax)
    found = torch.cat([real(low, low_scales), real(high, high_scales)])
    error = (found - whole).abs()
    assert error.max() <= 0.02 * whole.abs().max()
    exact = at * 640 // 256 * 256
    assert error.flatten()[:exact].max() == 0
    if at * 640 % 256 == 0:
        assert error.max() == 0
    else:
        assert error.max() > 0  # or the test would not see a lossy cut


@pytest.mark.parametrize("kind", LIBRARIES)
def test_an_absent_library_is_named_with_the_way_out(kind, monkeypatch):
    for name in ("", ".optim", ".optimization"):
        monkeypatch.setitem(sys.modules, LIBRARIES[kind] + name, None)
    adapter = Adapter("layer", nn.Linear(6, 5), CPU, moments=False)
    adapter.set_rank(1, torch.ones(1, 6), torch.ones(1, 5))
    config = TrainConfig(optimizer=kind, learning_rate=1.0)
    with pytest.raises(LoRA2Error, match=f"pip install {LIBRARIES[kind]}.*choose adamw"):
        make_optimizer(config, [adapter], None)
