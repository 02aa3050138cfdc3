"""ComfyUI's page in a real Chromium."""

import functools
from contextlib import ExitStack

import pytest
from host import graphs

from web import page as pages

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    if call.excinfo is not None:
        item.stash[FAILED] = True
    return (yield)


@pytest.fixture(scope="session")
def web_host(host):
    """The server behind the page, with the five photographs in input/page_dog."""
    host.add_images(graphs.PHOTOGRAPHS, "page_dog", size=128)
    return host


@pytest.fixture(scope="session")
def browser():
    with pages.open_browser() as running:
        yield running


@pytest.fixture(scope="module")
def any_page(browser, web_host):
    """Renderer → its page. Both stay open, so that a test runs in both before the next one does:
    the server then has what the first has computed. They are closed before another file's tests,
    since an open page draws without end."""
    with ExitStack() as stack:
        yield functools.cache(
            lambda renderer: stack.enter_context(pages.open_page(browser, web_host, renderer))
        )


@pytest.fixture(params=pages.RENDERERS)
def page(request, any_page):
    """The page, once for each renderer: empty, with nothing that runs and nothing to complain of.

    After a test that failed it is opened anew.
    """
    page = any_page(request.param)
    page.clean()
    yield page
    if request.node.stash.get(FAILED, False):
        page.reopen()
