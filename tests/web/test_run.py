"""The templates run in the page, as a new user would run them, and say what they did."""

import os
import re
import time
from pathlib import Path

import pytest
from host import checkpoints, graphs
from playwright.sync_api import expect
from web.page import RENDERERS, template


def test_train_then_generate(page, web_host):
    checkpoint = checkpoints.place(web_host, "small_koala")
    page.load(template("lora2_train"))
    page.refresh()
    page.set("CheckpointLoaderSimple", ckpt_name=checkpoint)
    page.set("LoadImageDataSetFromFolder", folder="page_dog")
    seed = RENDERERS.index(page.renderer)  # or the second renderer would find the first's result
    page.set("LoRA2Train", preset="small", steps=3, seed=seed, training_dtype="fp32")
    page.set("LoRA2Save", prefix=f"lora2/{page.renderer}")
    seen = set()
    outputs = page.run(lambda: seen.update(page.text_in("LoRA2Train").splitlines()))
    said = outputs[page.node_id("LoRA2Save")]["text"][0]
    name = re.fullmatch(r"saved (\S+) \(.*\)", said)[1]
    progress = re.compile(r"step \d/3, loss \S+, mean rank \S+, \S+ MB in fp16, .+")
    assert any(map(progress.fullmatch, seen)), seen
    page.await_text("LoRA2Train", "step 3/3")  # it stays when the training is over
    page.await_text("LoRA2Save", said)
    ranks = outputs[page.node_id("LoRA2RankHeatmap")]["lora2_ranks"][0]["report"]["totals"]
    mean = f"{ranks['mean_rank']:.1f}".removesuffix(".0")
    page.await_text("LoRA2RankHeatmap", f"mean rank {mean} (")
    assert (web_host.base / "models" / "loras" / name).is_file()
    page.settle()  # nodes grow when they have something to show
    assert page.overlaps() == []

    page.load(template("lora2_generate"))
    page.refresh()
    page.set("CheckpointLoaderSimple", ckpt_name=checkpoint)
    page.set("LoRA2Load", lora_name=name)
    page.set("EmptyLatentImage", width=128, height=128)
    page.set("KSampler", steps=2)
    outputs = page.run()
    fitted = "matched 168 of 168 components"
    assert outputs[page.node_id("LoRA2Load")]["text"] == [fitted]
    page.await_text("LoRA2Load", fitted)
    picture = outputs[page.node_id("SaveImage")]["images"][0]
    assert web_host.image(picture).size == (128, 128)
    page.settle()
    assert page.overlaps() == []
    assert page.complaints() == []


def test_merge_then_compress(page, web_host):
    names = [
        graphs.random_lora(web_host, f"{word}_{page.renderer}", seed, ranks)
        for word, seed, ranks in (("content", 1, (1, 4, 9)), ("style", 2, (6,)))
    ]
    page.load(template("lora2_merge"))
    page.refresh()
    page.tab.evaluate(
        """names => app.graph._nodes.filter(node => node.type === "LoRA2Pick").forEach(
          (node, i) => node.widgets.find(w => w.name === "lora_name").value = names[i])""",
        names,
    )
    page.set("LoRA2Merge", keep="megabytes", megabytes=1.0)
    page.set("LoRA2Save", prefix=f"merged/{page.renderer}")
    outputs = page.run()
    said = outputs[page.node_id("LoRA2Merge")]["text"][0]
    assert re.fullmatch(r"168 components, mean rank 10\.7 → \S+, \S+ % of the energy kept", said)
    page.await_text("LoRA2Merge", said)
    saved = outputs[page.node_id("LoRA2Save")]["text"][0]
    page.await_text("LoRA2Save", saved)
    name = saved.removeprefix("saved ").split(" (")[0]
    page.settle()
    assert page.overlaps() == []

    page.load(template("lora2_compress"))
    page.refresh()
    page.set("LoRA2Compress", lora_name=name, keep="rank", rank=1)
    page.set("LoRA2Save", prefix=f"compressed/{page.renderer}")
    said = page.run()[page.node_id("LoRA2Compress")]["text"][0]
    assert "→ 1.0," in said
    page.await_text("LoRA2Compress", said)
    page.settle()
    assert page.overlaps() == []
    assert page.complaints() == []


def processor_seconds(process):
    """What a process has used of the processors: other work on the machine does not count.

    Where that cannot be read, the clock.
    """
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return time.monotonic()
    user, system = stat.read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_the_demo_as_it_is_shipped_takes_less_than_three_minutes(page, web_host):
    page.load(template("lora2_demo"))
    began = processor_seconds(web_host.pid)
    # the second renderer finds the results of the first, and has only to show them
    outputs = page.run()
    assert processor_seconds(web_host.pid) - began < 180
    nodes = page.graph()["nodes"]
    shown = {n["title"]: outputs[str(n["id"])] for n in nodes if n["type"] == "PreviewImage"}
    assert len(shown["Learned from"]["images"]) == 5
    without, with_it = (
        [web_host.image(entry).tobytes() for entry in shown[f"{which} the adapter"]["images"]]
        for which in ("Without", "With")
    )
    assert len(without) == len(with_it) == 4
    assert not set(without) & set(with_it)
    page.settle()  # nodes grow when they have something to show
    assert page.overlaps() == []
    ranks = outputs[page.node_id("LoRA2RankHeatmap")]["lora2_ranks"][0]["report"]["totals"]
    page.approach("LoRA2RankHeatmap")
    expect(page.tab.locator(".lora2-viewer")).to_contain_text(f"mean rank {ranks['mean_rank']:.1f}")
    assert page.complaints() == []


def test_a_connected_socket_makes_room_for_the_next(page):
    page.load(template("lora2_merge"))
    sockets = """() => app.graph._nodes.find(node => node.type === "LoRA2Merge").inputs
      .filter(input => input.name.startsWith("loras.")).length"""
    assert page.tab.evaluate(sockets) == 3
    page.tab.evaluate(
        """() => {
          const pick = LiteGraph.createNode("LoRA2Pick");
          app.graph.add(pick);
          const merge = app.graph._nodes.find(node => node.type === "LoRA2Merge");
          pick.connect(0, merge, merge.inputs.findIndex(i => i.name === "loras.lora_2"));
        }"""
    )
    page.wait_for("a fourth socket", f"({sockets})() === 4")
