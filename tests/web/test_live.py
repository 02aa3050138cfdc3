"""A training run in its node: it changes while it runs, survives a reload, and ends as the file."""

import re

import pytest
from host import checkpoints
from web.page import RENDERERS, template

from lora2_core.files.adapter_file import read
from lora2_core.ranks import rank_report

STEPS = 40
STATE = re.compile(r"step (\d+)/(\d+), loss ([\d.]+), mean rank ([\d.]+), ([\d.]+) MB in fp16(.*)")


def element(page):
    return page.tab.locator(".lora2-live:visible")


def state(page):
    """(step, mean rank, megabytes, what follows) as the node says it, or None."""
    shown = [text for text in element(page).all_inner_texts() if STATE.search(text)]
    if not shown:
        return None
    step, _, _, mean, size, rest = STATE.search(shown[0]).groups()
    return int(step), float(mean), float(size), rest


def await_state(page, wanted, timeout=120):
    for _ in range(10 * timeout):
        found = state(page)
        if found and wanted(found):
            return found
        page.tab.wait_for_timeout(100)
    raise AssertionError(f"the node says {state(page)}; {page.complaints()}")


@pytest.fixture
def ready(page, web_host):
    page.load(template("lora2_train"))
    page.refresh()
    page.set("CheckpointLoaderSimple", ckpt_name=checkpoints.place(web_host, "small_koala"))
    page.set("LoadImageDataSetFromFolder", folder="dog")
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
    page.tab.evaluate("async () => { await app.queuePrompt(0); }")
    await_state(page, lambda found: found[0] >= 3)
    early = element(page).locator("canvas").last.screenshot()
    step, _, _, rest = await_state(page, lambda found: found[0] >= 12)
    assert re.fullmatch(r", \d+:\d\d left", rest)
    assert element(page).locator("canvas").last.screenshot() != early

    page.start()  # a reload in mid-run
    again, *_ = await_state(page, lambda found: found[0] >= step, timeout=20)
    assert again < STEPS, "the run was over before the page was back"
    await_state(page, lambda found: found[0] > again)
    _, mean, size, rest = await_state(page, lambda found: found[0] == STEPS)
    page.tab.wait_for_timeout(1000)
    assert state(page)[3] == ", done"
    path = newest(web_host, f"live/{page.renderer}")
    totals = rank_report.report(read(path))["totals"]
    assert mean == pytest.approx(totals["mean_rank"], abs=0.06)
    spare = size - path.stat().st_size / 1e6  # for words that a file may carry
    assert 0 <= spare < 0.015

    scrubber = element(page).locator("input[type=range]")
    scrubber.focus()
    for step in (STEPS - 1, STEPS - 2):
        page.tab.keyboard.press("ArrowLeft")
        assert state(page)[0] == step
    page.tab.keyboard.press("Home")
    assert state(page)[0] == 1
    page.tab.keyboard.press("End")
    assert state(page)[0] == STEPS
    assert page.prompt() == sent, "what is shown is no part of the graph"
    assert page.complaints() == []


def newest(host, prefix):
    folder = host.base / "models" / "loras"
    for _ in range(100):  # the file comes after the training
        found = sorted(folder.glob(f"{prefix}*.safetensors"))
        if found:
            return found[-1]
    raise AssertionError(f"no {prefix}")


def test_a_run_through_a_lost_connection_to_its_cancel_and_in_no_other_graph(ready, web_host):
    page = ready
    page.set("LoRA2Train", steps=500)
    page.tab.evaluate("async () => { await app.queuePrompt(0); }")
    step, *_ = await_state(page, lambda found: found[0] >= 2)
    page.tab.evaluate("app.api.socket.close()")  # the page connects anew by itself
    await_state(page, lambda found: found[0] > step + 1, timeout=30)
    web_host.interrupt()
    await_state(page, lambda found: found[3] == ", stopped", timeout=30)
    kept = page.graph()
    page.load(template("lora2_train"))  # the same node ids in another graph
    page.tab.wait_for_timeout(700)
    assert state(page) is None
    page.load(kept)
    await_state(page, lambda found: found[3] == ", stopped", timeout=20)
    assert page.complaints() == []
