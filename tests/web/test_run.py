"""Both templates run in the page, as a new user would run them, and say what they did."""

import re

from host import checkpoints
from web.page import RENDERERS, template


def test_train_then_generate(page, web_host):
    checkpoint = checkpoints.place(web_host, "small_koala")
    page.load(template("lora2_train"))
    page.refresh()
    page.set("CheckpointLoaderSimple", ckpt_name=checkpoint)
    page.set("LoadImageDataSetFromFolder", folder="dog")
    seed = RENDERERS.index(page.renderer)  # or the second renderer would find the first's result
    page.set("LoRA2Train", preset="small", steps=3, seed=seed, training_dtype="fp32")
    page.set("LoRA2Save", prefix=f"lora2/{page.renderer}")
    seen = set()
    page.run(lambda: seen.update(page.text_in("LoRA2Train").splitlines()))
    progress = re.compile(r"step \d/3 · loss \d\.\d{4} · mean rank \d+\.\d")
    assert any(map(progress.fullmatch, seen)), seen
    assert progress.search(page.text_in("LoRA2Train")), "the text went when training was over"
    name = re.search(r"saved (\S+) \(", page.text_in("LoRA2Save"))[1]
    assert (web_host.base / "models" / "loras" / name).is_file()
    assert page.overlaps() == []  # nodes grow when they have something to show

    page.load(template("lora2_generate"))
    page.refresh()
    page.set("CheckpointLoaderSimple", ckpt_name=checkpoint)
    page.set("LoRA2Load", lora_name=name)
    page.set("EmptyLatentImage", width=128, height=128)
    page.set("KSampler", steps=2)
    outputs = page.run()
    assert "matched 168 of 168 components" in page.text_in("LoRA2Load")
    picture = outputs[page.node_id("SaveImage")]["images"][0]
    assert web_host.image(picture).size == (128, 128)
    assert page.overlaps() == []
    assert page.complaints() == []
