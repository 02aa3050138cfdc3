"""Previews in the training node: they come as they are drawn, follow the slider, and stay."""

import re

import pytest
from host import checkpoints
from playwright.sync_api import expect
from web.page import RENDERERS, template

STEPS = 9
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


def await_previews(page, *wanted):
    """Waits until the strip has these steps, all their pictures in full, and cannot hold them."""
    expect(strip(page).locator("button")).to_have_text([f"step {step}" for step in wanted])
    page.wait_for(
        "a picture of every step",
        """([strip, wanted]) => {
          const pictures = [...strip.querySelectorAll("img")];
          return pictures.length === wanted && strip.scrollWidth > strip.clientWidth
            && pictures.every(picture => picture.complete && picture.naturalWidth > 0);
        }""",
        [strip(page).element_handle(), len(wanted)],
    )


def await_marked(page, step):
    """Waits until this step and no other is marked, and is within the strip's frame."""
    page.wait_for(
        f"the mark on step {step}, in view",
        """([strip, text]) => {
          const marked = strip.querySelectorAll("button[aria-pressed=true]");
          if (marked.length !== 1 || marked[0].innerText.trim() !== text) return false;
          const frame = strip.getBoundingClientRect(), box = marked[0].getBoundingClientRect();
          return frame.left - 2 <= box.left && box.right <= frame.right + 2;
        }""",
        [strip(page).element_handle(), f"step {step}"],
    )


def await_text(page, text):
    expect(page.tab.locator(".lora2-live:visible").get_by_text(text).first).to_be_visible()


@pytest.fixture
def ready(page, web_host):
    page.load(template("lora2_train"))
    page.refresh()
    page.set("CheckpointLoaderSimple", ckpt_name=checkpoints.place(web_host, "small_koala"))
    page.set("LoadImageDataSetFromFolder", folder="page_dog")
    page.set(
        "LoRA2Train", preset="small", steps=STEPS, seed=200 + RENDERERS.index(page.renderer),
        training_dtype="fp32", learning_rate=1e-3, lambda_r=1e-6,
    )  # fmt: skip
    page.set("LoRA2Save", prefix=f"preview/{page.renderer}")
    small = {"every": 3, "steps": 1, "width": 128, "height": 64}
    page.tab.evaluate(CONNECT, small)
    page.fit()
    return page


def test_previews_come_follow_the_slider_and_survive_a_reload(ready):
    page = ready
    sent = page.prompt()
    seen = set()
    page.run(lambda: seen.update(steps(page)) if strip(page).count() else None)
    assert seen & {3, 6}, "they came at the end only"
    await_previews(page, 3, 6, 9)
    await_marked(page, 9)
    assert strip(page).locator("img").first.get_attribute("alt") == "preview of step 3"

    slider = page.tab.locator(".lora2-live:visible input[type=range]")
    slider.focus()
    page.tab.keyboard.press("Home")
    await_text(page, f"step 1/{STEPS}")
    await_marked(page, 3)
    for _ in range(4):  # to step 5, nearer to 6
        page.tab.keyboard.press("ArrowRight")
    await_text(page, f"step 5/{STEPS}")
    await_marked(page, 6)
    strip(page).locator("button").first.click()
    await_text(page, f"step 3/{STEPS}")
    await_marked(page, 3)

    page.start()
    await_text(page, f"step {STEPS}/{STEPS}")
    await_previews(page, 3, 6, 9)
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
    await_text(page, re.compile(r"^step 3/3, .*, done(: cut from mean rank \S+)?$"))
    said = page.tab.locator(".lora2-live:visible [role=status]:visible")
    expect(said).to_have_text(re.compile("^the preview of step 3 could not be drawn: "))
    assert not strip(page).is_visible()
    assert page.complaints() == []
