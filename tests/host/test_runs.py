"""Runs that are stopped and taken up in the real host: nothing is lost, and no bit differs."""

import random
import time

import pytest
from host import checkpoints, graphs
from host.comfy_host import HostError, NodeFailed, PromptRejected, open_host

STEPS = 8


def queued(host, name, steps=STEPS, **settings):
    graph, train = graphs.training(host, steps=steps, seed=41, **settings)
    return graph, train, graphs.save(graph, train, name)


@pytest.fixture(scope="module")
def whole(host):
    graph, _, save = queued(host, "whole", run="whole")
    return graphs.tensors(host, host.run(graph), save)


def stopped_at(host, step, name):
    """Cancels a new run at that step; returns the run's name."""
    graph, train, _ = queued(host, name, run=name)

    def cancel(kind, data):
        if kind == "progress" and data["node"] == train.id and data["value"] == step:
            host.interrupt()

    assert host.run(graph, on_event=cancel).interrupted
    return f"{name}_00001"


def folder(host, run):
    return host.base / "output" / "lora2_runs" / run


def test_cancel_leaves_an_adapter_and_a_run_that_goes_on(host, whole):
    run = stopped_at(host, 5, "cancelled")
    kept = sorted(path.name for path in folder(host, run).iterdir())
    assert len(kept) == 2 and kept[0].endswith(".safetensors")
    step = int(kept[0][5:11])
    assert 5 <= step < STEPS and kept[1] == f"step_{step:06d}.state.safetensors"
    loras = host.base / "models" / "loras" / "kept.safetensors"
    loras.write_bytes((folder(host, run) / kept[0]).read_bytes())
    assert graphs.sample(host, graphs.with_ours("kept.safetensors")).isfinite().all()

    assert run in host.object_info("LoRA2Train")["input"]["optional"]["resume"][1]["options"]
    graph, _, save = queued(host, "resumed", resume=run)
    assert graphs.same(graphs.tensors(host, host.run(graph), save), whole)


def test_other_settings_and_another_model_are_refused_by_name(host):
    run = stopped_at(host, 3, "refused")
    graph, *_ = queued(host, "x", resume=run, lambda_r=0.5, learning_rate=0.25)
    with pytest.raises(NodeFailed, match=r"learning_rate was 0\.001 and is 0\.25.*lambda_r was"):
        host.run(graph)
    graph, *_ = queued(host, "x", resume=run, targets="all_linear")
    with pytest.raises(NodeFailed, match="targets was attention"):
        host.run(graph)
    graph, *_ = queued(host, "x", resume="no such run")
    with pytest.raises(PromptRejected, match="resume"):
        host.run(graph)
    last = max(folder(host, run).glob("*.state.safetensors"))
    last.write_bytes(last.read_bytes()[:-9])
    graph, *_ = queued(host, "x", resume=run)
    with pytest.raises(NodeFailed, match="no state that is whole"):
        host.run(graph)


def test_a_finished_run_gets_more_steps(host, whole):
    graph, *_ = queued(host, "longer", steps=STEPS + 3, resume="whole_00001")
    run = host.run(graph)
    assert run.progress[-1][1:] == (STEPS + 3, STEPS + 3)
    kept = {path.name for path in folder(host, "whole_00001").iterdir()}
    assert "step_000011.state.safetensors" in kept


def test_a_host_that_is_killed_loses_nothing_but_the_last_steps(whole):
    """kill -9 at random moments, a new server each time, until the run is done."""
    chance = random.Random(0)
    with open_host() as own:
        checkpoints.place(own, "small_koala")
        resume = "(new run)"
        for _ in range(2):
            graph, train, _ = queued(own, "killed", run="killed", resume=resume, save_every=1)
            moment = [chance.uniform(0.0, 1.5)]

            def crash(kind, data, train=train, moment=moment):
                if kind == "progress" and data["node"] == train.id and len(moment) == 1:
                    moment.append(time.monotonic())
                if len(moment) == 2 and time.monotonic() - moment[1] > moment[0]:
                    own.kill()

            try:
                own.run(graph, on_event=crash)
                own.kill()  # it was done first
            except (HostError, AttributeError):
                pass
            own.start()
            names = own.object_info("LoRA2Train")["input"]["optional"]["resume"][1]["options"]
            if len(names) > 1:
                resume = names[1]
        graph, _, save = queued(own, "killed", resume=resume)
        assert resume == "killed_00001"
        assert graphs.same(graphs.tensors(own, own.run(graph), save), whole)
