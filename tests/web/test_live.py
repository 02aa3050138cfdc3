"""A training run in its node: it changes while it runs, survives a reload, and ends as the file."""

import re
from typing import NamedTuple

import pytest
from host import checkpoints
from web.page import RENDERERS, template

from lora2_core.files.adapter_file import read
from lora2_core.ranks import rank_report

STEPS = 18  # a reload takes as long as four or five
# What the node says of its run, or null.
STATE = r"""
() => {
  for (const element of document.querySelectorAll(".lora2-live")) {
    if (!element.checkVisibility() || !element.clientWidth) continue;
    const found = element.innerText.match(
      /step (\d+)\/(\d+), loss ([\d.]+), mean rank ([\d.]+), ([\d.]+) MB in fp16(.*)/);
    if (!found) continue;
    const [step, steps, loss, mean, size] = found.slice(1, 6).map(Number);
    return { step, mean, size, rest: found[6] };
  }
  return null;
}
"""


class State(NamedTuple):
    """rest: what follows the megabytes."""

    step: int
    mean: float
    size: float
    rest: str


def element(page):
    return page.tab.locator(".lora2-live:visible")


def state(page):
    """A State as the node says it, or None."""
    found = page.tab.evaluate(STATE)
    return found and State(**found)


def await_state(page, wanted):
    """The first State for which a condition holds, in JavaScript: "step >= 3"."""
    try:
        found = page.wait_for(
            f"a run at {wanted}",
            f"""() => {{
              const found = ({STATE})();
              if (!found) return null;
              const {{ step, rest }} = found;
              return {wanted} ? found : null;
            }}""",
            every=0.1,
        )
    except AssertionError as error:
        raise AssertionError(f"{error}; the node says {state(page)}") from None
    return State(**found)


def load(page, graph):
    """Opens a workflow, and lets it ask the server for its runs."""
    with page.tab.expect_response(lambda response: "/lora2/live" in response.url):
        page.load(graph)


@pytest.fixture
def ready(page, web_host):
    load(page, template("lora2_train"))
    page.refresh()
    page.set("CheckpointLoaderSimple", ckpt_name=checkpoints.place(web_host, "small_koala"))
    page.set("LoadImageDataSetFromFolder", folder="page_dog")
    page.set(
        "LoRA2Train", preset="small", steps=STEPS, seed=100 + RENDERERS.index(page.renderer),
        training_dtype="fp32", learning_rate=1e-3, lambda_r=1e-6,
    )  # fmt: skip
    page.set("LoRA2Save", prefix=f"live/{page.renderer}")
    return page


def test_a_run_from_its_first_step_through_a_reload_to_its_movie(ready, web_host):
    page = ready
    assert state(page) is None
    sent = page.prompt()
    page.queue()
    await_state(page, "step >= 1")
    page.settle()  # the node has grown
    picture = element(page).locator("canvas").last
    page.await_change(picture, picture.screenshot())
    before = await_state(page, "step >= 4")
    assert re.fullmatch(r", \d+:\d\d left", before.rest)

    page.start()  # a reload in mid-run
    again = await_state(page, f"step >= {before.step}")
    assert again.step < STEPS, "the run was over before the page was back"
    await_state(page, f"step > {again.step}")
    page.finish()
    last = await_state(page, f"step === {STEPS} && rest.startsWith(', done')")
    path = newest(web_host, f"live/{page.renderer}")
    totals = rank_report.report(read(path))["totals"]
    assert last.mean == pytest.approx(totals["mean_rank"], abs=0.06)
    spare = last.size - path.stat().st_size / 1e6  # for words that a file may carry
    assert 0 <= spare < 0.015

    colours = element(page).get_by_label("What the colours show")
    before = picture.screenshot()
    colours.select_option("effect")
    before = page.await_change(picture, before)
    colours.select_option("rank")
    page.await_change(picture, before)

    scrubber = element(page).locator("input[type=range]")
    scrubber.focus()
    for step in (STEPS - 1, STEPS - 2):
        page.tab.keyboard.press("ArrowLeft")
        await_state(page, f"step === {step}")
    page.tab.keyboard.press("Home")
    await_state(page, "step === 1")
    page.tab.keyboard.press("End")
    await_state(page, f"step === {STEPS}")
    assert page.prompt() == sent, "what is shown is no part of the graph"
    assert page.complaints() == []


def newest(host, prefix):
    return sorted((host.base / "models" / "loras").glob(f"{prefix}*.safetensors"))[-1]


def test_a_run_through_a_lost_connection_to_its_cancel_and_in_no_other_graph(ready, web_host):
    page = ready
    page.set("LoRA2Train", steps=500)
    page.queue()
    before = await_state(page, "step >= 2")
    page.tab.evaluate("app.api.socket.close()")  # the page connects anew by itself
    await_state(page, f"step > {before.step + 1}")
    web_host.interrupt()
    await_state(page, "rest === ', stopped'")
    kept = page.graph()
    load(page, template("lora2_train"))  # the same node ids in another graph
    assert state(page) is None
    load(page, kept)
    await_state(page, "rest === ', stopped'")
    assert page.complaints() == []
