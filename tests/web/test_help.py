"""The help page of each node, where a user finds it."""

import pytest
from host.comfy_host import PACK, ROOT
from web.page import template

NODES = {
    "LoRA2Train": "lora2_train",
    "LoRA2Save": "lora2_train",
    "LoRA2Load": "lora2_generate",
    "LoRA2Pick": "lora2_merge",
    "LoRA2Merge": "lora2_merge",
    "LoRA2Compress": "lora2_compress",
    "LoRA2RankHeatmap": "lora2_train",
    "LoRA2DemoModel": "lora2_demo",
    "LoRA2DemoPictures": "lora2_demo",
}


@pytest.mark.parametrize("node", NODES)
def test_help_opens(page, web_host, node):
    stored = (ROOT / "web" / "docs" / f"{node}.md").read_text("utf-8")
    assert web_host.request(f"/extensions/{PACK}/docs/{node}.md").decode() == stored
    page.load(template(NODES[node]))
    page.select(node)
    page.tab.get_by_test_id("info-button").first.click()
    title = stored.splitlines()[0].removeprefix("# ")
    help_page = page.tab.locator(".node-help-content")
    help_page.get_by_role("heading", name=title, exact=True).wait_for()
    # a sentence from within, as the page renders it
    assert "|---|" in stored and help_page.locator("table").count() >= 1
    broken = help_page.locator("img").evaluate_all(
        "images => images.filter(image => image.complete && !image.naturalWidth).length"
    )
    assert broken == 0
    assert page.complaints() == []
