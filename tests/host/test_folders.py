"""LoRAs and runs by name: of another machine, in a second folder, as soon as they are saved."""

import pytest
import torch
from host import graphs
from host.comfy_host import READ_ONLY, PromptRejected


@pytest.fixture(scope="module")
def elsewhere(host):
    """A file of a sub-folder of the second loras folder, which extra_model_paths.yaml names."""
    name = graphs.random_lora(host, "elsewhere", 6, (2, 3))
    folder = host.base / "more_loras" / "dogs"
    folder.mkdir(parents=True, exist_ok=True)
    (host.base / "models" / "loras" / name).rename(folder / "rex.safetensors")
    return "dogs/rex.safetensors"


@pytest.mark.parametrize("spelt", ["dogs/rex.safetensors", r"dogs\rex.safetensors"])
def test_a_name_may_have_the_separator_of_another_machine(host, elsewhere, spelt):
    plain = graphs.sample(host)
    found = graphs.sample(host, graphs.with_ours(spelt))
    assert torch.equal(found, graphs.sample(host, graphs.with_theirs(elsewhere)))
    assert not torch.equal(found, plain)


@pytest.mark.parametrize("kind", ["LoRA2Load", "LoRA2Pick", "LoRA2Compress", "LoRA2RankHeatmap"])
def test_a_file_that_is_not_there_is_named_before_anything_runs(host, kind):
    graph, train = graphs.training(host)
    inputs = {"lora_name": "gone.safetensors", "strength_model": 1.0, "weight": 1.0}
    inputs |= {"keep": "rank", "rank": 1, "energy": 0.5, "megabytes": 1.0}
    wanted = host.object_info(kind)["input"]["required"]
    node = graph.node(kind, **{name: value for name, value in inputs.items() if name in wanted})
    if kind == "LoRA2Load":
        graph[node.id]["inputs"]["model"] = graph[train.id]["inputs"]["model"]
    graph.node("PreviewAny", source=node[0])
    with pytest.raises(PromptRejected, match=r"gone\.safetensors.*not in the loras folder"):
        host.run(graph)


def test_a_run_that_is_not_there_is_named_before_anything_runs(host):
    graph, train = graphs.training(host, resume="of_another_machine_00007")
    graphs.save(graph, train, "never")
    with pytest.raises(PromptRejected, match="no run 'of_another_machine_00007' is kept"):
        host.run(graph)


@pytest.mark.skipif(not READ_ONLY.is_dir(), reason="needs a folder into which nobody can write")
def test_the_first_folder_may_be_one_that_cannot_be_written_to(host):
    assert f"Adding extra search path loras {READ_ONLY}" in host.log()
    graph, train = graphs.training(host, steps=2)
    save = graphs.save(graph, train, "in the next folder")
    told = graph.node("PreviewAny", source=save[0])
    name = host.run(graph).outputs[told.id]["text"][0]
    assert (host.base / "models" / "loras" / name).is_file()


def test_what_was_saved_can_be_loaded_at_once_by_the_name_that_is_put_out(host):
    graph, train = graphs.training(host, steps=2)
    save = graphs.save(graph, train, "at once/rex")
    told = graph.node("PreviewAny", source=save[0])
    name = host.run(graph).outputs[told.id]["text"][0]
    listed = host.object_info("LoRA2Load")["input"]["required"]["lora_name"][1]["options"]
    assert name in listed
    assert graphs.sample(host, graphs.with_ours(name)).isfinite().all()
