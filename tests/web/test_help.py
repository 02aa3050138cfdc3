"""The help page of each node, where a user finds it."""

import pytest
from host.comfy_host import PACK, ROOT
from playwright.sync_api import expect

NODES = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))


@pytest.mark.parametrize("node", NODES)
def test_help_opens(page, web_host, node):
    stored = (ROOT / "web" / "docs" / f"{node}.md").read_text("utf-8")
    assert web_host.request(f"/extensions/{PACK}/docs/{node}.md").decode() == stored
    page.add(node)
    page.fit()
    page.select(node)
    page.tab.get_by_test_id("info-button").first.click()
    title = stored.splitlines()[0].removeprefix("# ")
    help_page = page.tab.locator(".node-help-content")
    expect(help_page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    # a table from within, as the page renders it
    assert "|---|" in stored
    expect(help_page.locator("table").first).to_be_visible()
    page.wait_for(
        "every picture of the help",
        """[...document.querySelectorAll(".node-help-content img")]
          .every(image => image.complete && image.naturalWidth)""",
    )
    assert page.complaints() == []
