"""Previews in the training node: they come as they are drawn, follow the slider, and stay."""

import pytest
from host import checkpoints
from web.page import RENDERERS, template

STEPS = 12
CONNECT = """
settings => {
  const find = type => app.graph._nodes.find(node => node.type === type);
  const train = find("LoRA2Train"), loader = find("CheckpointLoaderSimple");
  const add = (type, x, y) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [x, y];
    return node;
  };
  const { pos: [x, y], size: [, height] } = loader;
  const prompt = add("CLIPTextEncode", x, y + 700);
  loader.connect(1, prompt, prompt.inputs.findIndex(input => input.name === "clip"));
  prompt.widgets[0].value = "a sks dog";
  const preview = add("LoRA2Preview", x, y + 980);
  const into = (node, name) => node.inputs.findIndex(input => input.name === name);
  loader.connect(2, preview, into(preview, "vae"));
  prompt.connect(0, preview, into(preview, "positive"));
  for (const [name, value] of Object.entries(settings))
    preview.widgets.find(widget => widget.name === name).value = value;
  preview.connect(0, train, into(train, "preview"));
}
"""


def strip(page):
    return page.tab.locator(".lora2-live:visible [aria-label=Previews]")


def steps(page):
    texts = strip(page).locator("button").all_inner_texts()
    return [int(text.removeprefix("step ")) for text in texts]


def marked(page):
    found = strip(page).locator("button[aria-pressed=true]").all_inner_texts()
    return int(found[0].removeprefix("step ")) if len(found) == 1 else found


def in_view(page):
    """Whether the marked one is within the strip's frame."""
    frame = strip(page).bounding_box()
    box = strip(page).locator("button[aria-pressed=true]").bounding_box()
    return frame["x"] - 2 <= box["x"] and (
        box["x"] + box["width"] <= frame["x"] + frame["width"] + 2
    )


def loaded(page):
    """How many pictures are there in full."""
    return (
        strip(page)
        .locator("img")
        .evaluate_all(
            "images => images.filter(image => image.complete && image.naturalWidth > 0).length"
        )
    )


def await_text(page, text):
    page.tab.locator(".lora2-live:visible").get_by_text(text).first.wait_for(timeout=120_000)


@pytest.fixture
def ready(page, web_host):
    page.load(template("lora2_train"))
    page.refresh()
    page.set("CheckpointLoaderSimple", ckpt_name=checkpoints.place(web_host, "small_koala"))
    page.set("LoadImageDataSetFromFolder", folder="dog")
    page.set(
        "LoRA2Train", preset="small", steps=STEPS, seed=200 + RENDERERS.index(page.renderer),
        training_dtype="fp32", learning_rate=1e-3, lambda_r=1e-6,
    )  # fmt: skip
    page.set("LoRA2Save", prefix=f"preview/{page.renderer}")
    small = {"every": 3, "steps": 2, "width": 128, "height": 96}
    page.tab.evaluate(CONNECT, small)
    page.fit()
    return page


def test_previews_come_follow_the_slider_and_survive_a_reload(ready):
    page = ready
    sent = page.prompt()
    seen = set()
    page.run(lambda: seen.update(steps(page)) if strip(page).count() else None)
    assert seen & {3, 6, 9}, "they came at the end only"
    assert steps(page) == [3, 6, 9, 12]
    page.tab.wait_for_timeout(500)
    assert loaded(page) == 4
    assert marked(page) == 12 and in_view(page)
    assert strip(page).locator("img").first.get_attribute("alt") == "preview of step 3"

    slider = page.tab.locator(".lora2-live:visible input[type=range]")
    slider.focus()
    page.tab.keyboard.press("Home")
    assert marked(page) == 3 and in_view(page)
    for _ in range(4):  # to step 5, nearer to 6
        page.tab.keyboard.press("ArrowRight")
    assert marked(page) == 6
    strip(page).locator("button").nth(2).click()
    await_text(page, f"step 9/{STEPS}")
    assert marked(page) == 9

    page.start()
    await_text(page, f"step {STEPS}/{STEPS}")
    assert steps(page) == [3, 6, 9, 12]
    page.tab.wait_for_timeout(500)
    assert loaded(page) == 4
    assert page.prompt() == sent, "what is shown is no part of the graph"
    assert page.complaints() == []


FOREIGN = """
() => {
  const find = type => app.graph._nodes.find(node => node.type === type);
  const demo = LiteGraph.createNode("LoRA2DemoModel"), preview = find("LoRA2Preview");
  app.graph.add(demo);
  const slot = preview.inputs.findIndex(input => input.name === "positive");
  const prompt = app.graph.getNodeById(app.graph.links[preview.inputs[slot].link].origin_id);
  demo.connect(1, prompt, prompt.inputs.findIndex(input => input.name === "clip"));
}
"""


def test_a_prompt_of_another_model_is_said_and_trains_on(ready):
    page = ready
    page.set("LoRA2Train", seed=210 + RENDERERS.index(page.renderer), steps=3)
    page.tab.evaluate(FOREIGN)
    page.run()
    said = page.tab.locator(".lora2-live:visible [role=status]:visible").inner_text()
    assert said.startswith("the preview of step 3 could not be drawn: ")
    assert not strip(page).is_visible()
    await_text(page, "step 3/3")
    assert page.complaints() == []


def test_help_opens(ready):
    page = ready
    page.select("LoRA2Preview")
    page.tab.get_by_test_id("info-button").first.click()
    help_page = page.tab.locator(".node-help-content")
    help_page.get_by_role("heading", name="LoRA² Preview", exact=True).wait_for()
    assert help_page.locator("table").count() >= 1
    assert page.complaints() == []
