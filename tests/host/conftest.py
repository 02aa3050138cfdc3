"""One real ComfyUI for all tests of this folder; without one they are skipped, and loudly."""

from pathlib import Path

import pytest
from host import comfy_host

HERE = Path(__file__).resolve().parent
MISSING = pytest.StashKey[str]()


def pytest_collection_modifyitems(config, items):
    mine = [item for item in items if HERE in item.path.resolve().parents]
    try:
        reason = comfy_host.missing()
    except comfy_host.HostError as error:
        raise pytest.UsageError(f"{error}; {comfy_host.HOW_TO}") from None
    for item in mine:
        item.add_marker(pytest.mark.host)
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"no ComfyUI: {reason}"))
    if mine and reason:
        config.stash[MISSING] = reason


def pytest_terminal_summary(terminalreporter, config):
    reason = config.stash.get(MISSING, None)
    if reason:
        terminalreporter.section("THE REAL-HOST TESTS DID NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.line(f"Nothing in tests/host was tested: {reason}.", red=True)
        terminalreporter.line(f"To run them, {comfy_host.HOW_TO}.", red=True)


@pytest.fixture(scope="session")
def host():
    """The running server. Its folders are the session's own, so are its checkpoints."""
    with comfy_host.open_host() as running:
        yield running
