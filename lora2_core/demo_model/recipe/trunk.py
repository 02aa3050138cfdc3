"""A training run of unknown length: constant learning rate, and averaged weights to show for it.

The state is written every few minutes, so that a run can be stopped at any time and taken up
again. A last stretch with falling learning rate (`cooldown`) starts from the state and leaves it
as it is, so that the run can still go on from there.
"""

import json
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

_SAVE_EVERY = 180  # seconds
_WARM_UP = 200  # steps
_MEMORY = 0.06  # the average reaches over this share of the steps, at most _LONGEST
_LONGEST = 4000
_KEPT = {"step": "steps", "seconds": "seconds", "curve": "curve"}  # state ← record


def run(
    name: str,
    work: Path,
    model: nn.Module,
    loss_of: Callable[[nn.Module, int], Tensor],
    *,
    learning_rate: float,
    images_a_step: int,
    minutes: float,
    cooldown: float,
) -> nn.Module:
    """Trains for `minutes`, the last `cooldown` of them aside from the state; returns the average.

    loss_of(model, step) draws a batch of its own and returns its loss.
    """
    state_file = work / f"{name}.pt"
    average = deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    step, fresh_from, seconds, curve = 0, 0, 0.0, []
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        step, seconds, curve = state["step"], state["seconds"], state["curve"]
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
        else:  # weights alone, from a checkpoint
            fresh_from = step
        torch.manual_seed(step)
    started = saved = time.monotonic()
    cooling_from = started + 60 * (minutes - cooldown)
    cooling = False
    losses = []

    def save(file: Path) -> None:
        found = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds + time.monotonic() - started,
            "curve": curve,
        }
        torch.save(found, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)

    while (now := time.monotonic()) < started + 60 * minutes:
        if not cooling and now >= cooling_from:
            save(state_file)
            cooling = True
        left = (started + 60 * minutes - now) / (60 * cooldown) if cooling else 1.0
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step - fresh_from + 1) / _WARM_UP) * left
        loss = loss_of(model, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        _average(average, model, step)
        losses.append(loss.item())
        if len(losses) == 100:
            curve.append([step * images_a_step, sum(losses) / len(losses)])
            print(f"{name} {step * images_a_step} images, loss {curve[-1][1]:.4f}", flush=True)
            losses = []
        if not cooling and now - saved > _SAVE_EVERY:
            save(state_file)
            saved = now
    save(work / f"{name}_cooled.pt" if cooling else state_file)
    record = {
        "steps": step,
        "images": step * images_a_step,
        "seconds": round(seconds + 60 * minutes),
        "curve": curve,
    }
    (work / f"{name}.json").write_text(json.dumps(record))
    return average


def begin(work: Path, name: str, weights: dict[str, Tensor], record: dict) -> None:
    """A state for `run` to go on from: weights alone, and the record that came with them."""
    kept = {key: record[source] for key, source in _KEPT.items()}
    torch.save({"model": weights, "average": weights, **kept}, work / f"{name}.pt")


def _average(average: nn.Module, model: nn.Module, step: int) -> None:
    share = 1 / (1 + min(_MEMORY * step, _LONGEST))
    with torch.no_grad():
        pairs = zip(average.parameters(), model.parameters(), strict=True)
        torch._foreach_lerp_(*map(list, zip(*pairs, strict=True)), share)


def latest(work: Path, name: str) -> dict[str, Tensor]:
    """The averaged weights of a run, after its cooldown if it had one later."""
    files = [work / f"{name}.pt", work / f"{name}_cooled.pt"]
    newest = max((f for f in files if f.exists()), key=lambda f: f.stat().st_mtime)
    return torch.load(newest, weights_only=True)["average"]


def shuffled(count: int, batch: int) -> Iterator[Tensor]:
    """Index batches [batch], for ever."""
    while True:
        yield from torch.randperm(count).split(batch)[: count // batch]
