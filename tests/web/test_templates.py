"""The workflows as ComfyUI's templates: found, shown with a picture, and opened without trouble."""

import io

import pytest
from host.comfy_host import PACK
from PIL import Image
from web.page import TEMPLATES, template


def test_the_server_offers_both_with_pictures(web_host):
    assert sorted(web_host.get("/api/workflow_templates")[PACK]) == sorted(TEMPLATES)
    for name in TEMPLATES:
        data = web_host.request(f"/api/workflow_templates/{PACK}/{name}.jpg")
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG" and picture.width == 800
        assert len(data) <= 60 * 1024


def test_the_dialog_shows_them_and_opens_one(page):
    tab = page.tab
    tab.evaluate("void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    tab.get_by_role("dialog").get_by_placeholder("Search").first.fill("lora2")
    for name in TEMPLATES:
        picture = tab.get_by_test_id(f"template-workflow-{name}").locator("img").first
        picture.scroll_into_view_if_needed()
        # ours, not the one that stands in for a picture that is missing
        tab.wait_for_function("image => image.naturalWidth === 800", arg=picture.element_handle())
    tab.get_by_test_id("template-workflow-lora2_train").click()
    tab.wait_for_function("app.graph._nodes.some(node => node.type === 'LoRA2Train')")
    tab.get_by_role("dialog").wait_for(state="hidden")
    assert page.unknown_nodes() == []
    assert page.complaints() == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_and_survives_a_round_trip(page, name):
    stored = template(name)
    page.load(stored)
    assert page.unknown_nodes() == []
    assert page.overlaps() == []
    sent = page.prompt()
    # notes are no part of what is sent
    real = {str(node["id"]) for node in stored["nodes"] if node["type"] != "MarkdownNote"}
    assert set(sent) == real
    page.load(page.graph())
    assert page.prompt() == sent
    assert page.complaints() == []
