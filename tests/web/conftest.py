"""A real ComfyUI and its page in a real Chromium; without both the tests are skipped, loudly."""

from pathlib import Path

import pytest
from host import comfy_host, graphs

from web import page as pages

HERE = Path(__file__).resolve().parent
MISSING = pytest.StashKey[str]()


def _missing() -> str | None:
    try:
        reason = comfy_host.missing()
    except comfy_host.HostError as error:
        raise pytest.UsageError(f"{error}; {comfy_host.HOW_TO}") from None
    if reason:
        return f"no ComfyUI: {reason}"
    return None if pages.chromium() else "no Chromium on the PATH"


def pytest_collection_modifyitems(config, items):
    mine = [item for item in items if HERE in item.path.resolve().parents]
    reason = _missing() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.host)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
    if reason:
        config.stash[MISSING] = reason


def pytest_terminal_summary(terminalreporter, config):
    reason = config.stash.get(MISSING, None)
    if reason:
        terminalreporter.section("THE PAGE'S TESTS DID NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.line(f"Nothing in tests/web was tested: {reason}.", red=True)
        terminalreporter.line(f"They need Chromium and a host: {comfy_host.HOW_TO}.", red=True)


@pytest.fixture(scope="session")
def web_host():
    """The server behind the page, with the five photographs in input/dog."""
    with comfy_host.open_host() as running:
        running.add_images(graphs.PHOTOGRAPHS, "dog", size=128)
        yield running


@pytest.fixture(scope="session")
def browser():
    with pages.open_browser() as running:
        yield running


@pytest.fixture(scope="session", params=pages.RENDERERS)
def any_page(request, browser, web_host):
    with pages.open_page(browser, web_host, request.param) as page:
        yield page


@pytest.fixture
def page(any_page):
    """The page, once for each renderer, with nothing to complain about yet."""
    any_page.clean()
    return any_page
