"""What a cut by effect keeps of an adapter, beside a cut by σ, on the demo model.

python benchmarks/effect.py [--subjects 1 10] [--seeds 0 1 2] [--out FILE.json]

One adapter learns so many drawn subjects at once, as LoRA² and at fixed ranks, and is then cut: to
shares of its effect, and by effect and by σ to equal sizes. Fidelity is the denoising loss on
unseen renders of the subjects, forgetting that on scenes without them, both in per cent of the
base's loss (benchmarks.tradeoff). The effects are those that the run itself gathered. What is in
FILE already is not made again; a table is printed at the end.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch
from tradeoff.cutting import Factors, parameters
from tradeoff.lesson import Lesson, denoiser

from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import batches
from lora2_core.drawn_world import load_subjects
from lora2_core.effect.spend import ranks_for_budget, ranks_for_share
from lora2_core.layers.applied import applied
from lora2_core.layers.low_rank import singular_values, truncate
from lora2_core.training.loop import train
from lora2_core.training.result import TrainResult

STEPS = {1: 300, 3: 600, 10: 1500}  # by subjects
CONTESTANTS = {  # by subjects: label → settings; the rates are the best of coarse grids
    1: {
        "lora2": {"preset": "small", "learning_rate": 1e-3},
        "rank 16": {"preset": "small", "method": "lora", "learning_rate": 3e-4},
    },
    10: {
        "lora2": {"preset": "balanced", "learning_rate": 1e-3},
        "rank 16": {"preset": "small", "method": "lora", "learning_rate": 5e-4},
    },
}
SHARES = (0.9999, 0.999, 0.99, 0.95)
THOUSANDS = (61, 31, 15)  # parameters


def trained(subjects: int, label: str, seed: int) -> tuple[TrainResult, list[Lesson]]:
    """All rows, in the order of their effect."""
    settings = dict(CONTESTANTS[max(key for key in CONTESTANTS if key <= subjects)][label])
    config = TrainConfig.preset(
        settings.pop("preset"), **settings, steps=STEPS[subjects], seed=seed, dtype="fp32",
        gradient_checkpointing=False, effect_share=1 - 1e-15,
    )  # fmt: skip
    lessons = [Lesson(one, seed) for one in list(load_subjects().values())[:subjects]]
    for lesson in lessons:
        _ = lesson.probes  # the base's losses
    examples = [example for lesson in lessons for example in lesson.examples]
    order = batches(examples, batch_size=1, accumulation=1, seed=seed)
    return train(denoiser(), order, config), lessons


def cuts(result: TrainResult) -> Iterator[tuple[str, Factors]]:
    """(what was cut, factors) of every cut."""
    factors = result.factors
    yield "whole", factors
    costs = [parameters({name: own}) / len(own[0]) for name, own in factors.items()]
    effects = [torch.tensor(result.effects[name], dtype=torch.float64) for name in factors]
    sigmas = [singular_values(up, down) for down, up in factors.values()]
    for share in SHARES:
        yield f"effect {share:g}", _first(factors, ranks_for_share(effects, costs, share))
    for size in THOUSANDS:
        if size * 1000 >= parameters(factors):
            continue
        ranks = ranks_for_budget(effects, costs, size * 1000)
        yield f"effect {size}k", _first(factors, ranks)
        ranks = ranks_for_budget([sigma.square() for sigma in sigmas], costs, size * 1000)
        yield f"σ {size}k", _largest(factors, ranks)


def _first(factors: Factors, ranks: list[int]) -> Factors:
    pairs = zip(factors.items(), ranks, strict=True)
    return {name: (down[:rank], up[:, :rank]) for (name, (down, up)), rank in pairs if rank}


def _largest(factors: Factors, ranks: list[int]) -> Factors:
    pairs = zip(factors.items(), ranks, strict=True)
    return {name: truncate(up, down, rank)[::-1] for (name, (down, up)), rank in pairs if rank}


def measured(lessons: list[Lesson], factors: Factors) -> dict[str, float]:
    probes = [lesson.probes for lesson in lessons]
    with applied(denoiser(), factors):
        own = [one["subject"][0].loss(denoiser()) / one["subject"][1] - 1 for one in probes]
        probe, base = probes[0]["general"]
        general = probe.loss(denoiser()) / base - 1
    return {"fidelity": round(100 * mean(own), 3), "forgetting": round(100 * general, 3)}


def run(subjects: int, label: str, seed: int) -> dict:
    start = time.perf_counter()
    result, lessons = trained(subjects, label, seed)
    took = time.perf_counter() - start
    found = {
        what: {"parameters": parameters(factors), **measured(lessons, factors)}
        for what, factors in cuts(result)
    }
    return {"subjects": subjects, "contestant": label, "seed": seed, "seconds": round(took),
            "cuts": found}  # fmt: skip


def table(runs: list[Mapping]) -> str:
    """Means over the seeds."""
    lines = ["| subjects | | cut | parameters | fidelity | forgetting | seeds |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    groups: dict[tuple, list[dict]] = {}
    for one in runs:
        for what, found in one["cuts"].items():
            groups.setdefault((one["subjects"], one["contestant"], what), []).append(found)
    for (subjects, label, what), found in groups.items():
        size, fidelity, forgetting = (
            mean(one[key] for one in found) for key in ("parameters", "fidelity", "forgetting")
        )
        lines.append(
            f"| {subjects} | {label} | {what} | {size / 1000:.0f}k | {fidelity:.2f} | "
            f"{forgetting:.2f} | {len(found)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, nargs="+", choices=[*STEPS], default=[1, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    runs = json.loads(options.out.read_text()) if options.out and options.out.exists() else []
    done = {(one["subjects"], one["contestant"], one["seed"]) for one in runs}
    for seed in options.seeds:
        for subjects in options.subjects:
            labels = CONTESTANTS[max(key for key in CONTESTANTS if key <= subjects)]
            for label in labels:
                if (subjects, label, seed) in done:
                    continue
                runs.append(run(subjects, label, seed))
                if options.out:
                    options.out.write_text(json.dumps(runs, indent=1, ensure_ascii=False) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
