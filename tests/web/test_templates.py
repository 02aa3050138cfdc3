"""The workflows as ComfyUI's templates: found, shown with a picture, and opened without trouble."""

import io

import pytest
from host.comfy_host import PACK
from PIL import Image
from playwright.sync_api import expect
from web.page import TEMPLATES, template


def test_the_server_offers_all_with_pictures(web_host):
    assert sorted(web_host.get("/api/workflow_templates")[PACK]) == sorted(TEMPLATES)
    for name in TEMPLATES:
        data = web_host.request(f"/api/workflow_templates/{PACK}/{name}.jpg")
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG" and picture.width == 800
        assert len(data) <= 60 * 1024


def test_the_dialog_shows_them_and_opens_one(page):
    tab = page.tab
    tab.evaluate("void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    tab.get_by_role("dialog").get_by_text(PACK, exact=True).click()
    for name in TEMPLATES:
        card = tab.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()
        picture = card.locator("img").first
        # ours, not the one that stands in for a picture that is missing
        handle = picture.element_handle()
        page.wait_for(f"{name}'s picture", "image => image.naturalWidth === 800", handle)
    tab.get_by_test_id("template-workflow-lora2_train").click()
    page.wait_for("the template", "app.graph._nodes.some(node => node.type === 'LoRA2Train')")
    expect(tab.get_by_role("dialog")).to_be_hidden()
    assert page.unknown_nodes() == []
    assert page.complaints() == []


def declared(host, prompt: dict) -> dict:
    """A prompt without what the host's own page adds to it, as previewMode to PreviewAny."""
    kept = {}
    for number, node in prompt.items():
        inputs = host.object_info(node["class_type"])["input"]
        names = set(inputs["required"]) | set(inputs.get("optional", {}))
        kept[number] = node | {"inputs": {k: v for k, v in node["inputs"].items() if k in names}}
    return kept


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_and_survives_a_round_trip(page, web_host, name):
    stored = template(name)
    page.load(stored)
    assert page.unknown_nodes() == []
    assert page.overlaps() == []
    sent = declared(web_host, page.prompt())
    # notes are no part of what is sent
    real = {str(node["id"]) for node in stored["nodes"] if node["type"] != "MarkdownNote"}
    assert set(sent) == real
    page.load(page.graph())
    assert declared(web_host, page.prompt()) == sent
    assert page.complaints() == []
