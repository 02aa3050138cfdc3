"""Loads lora2_core by path, with ComfyUI's modules blocked: the core must never need them.

tests/host and tests/web share one real ComfyUI, a process of its own; without it they are skipped,
and loudly.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST_MODULES = ("comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "nodes")


class _BlockHost:
    """Import hook that refuses ComfyUI's modules by name."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HOST_MODULES:
            raise ImportError(f"{name} is blocked: lora2_core and its tests run without ComfyUI")
        return None


sys.meta_path.insert(0, _BlockHost())
sys.path.append(str(ROOT / "tests"))  # for reference.py and other modules that tests share
sys.path.append(str(ROOT / "benchmarks"))  # for its packages
if "lora2_core" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "lora2_core",
        ROOT / "lora2_core" / "__init__.py",
        submodule_search_locations=[str(ROOT / "lora2_core")],
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["lora2_core"] = module
    spec.loader.exec_module(module)

REAL = {folder: ROOT / "tests" / folder for folder in ("host", "web")}
_SKIPPED = "no host; the end says why"


def _why_not(folder: str) -> str | None:
    """Why the tests of host/ or web/ cannot run."""
    from host import comfy_host  # late: it needs packages that the core's tests do without

    if reason := comfy_host.missing():
        return f"no ComfyUI: {reason}"
    if folder == "web":
        from web import page

        return None if page.chromium() else "no Chromium on the PATH"
    return None


def _drives(path: Path) -> bool:
    """Whether a file's tests run in a host that is there."""
    return REAL["host"] in path.parents and _why_not("host") is None


def _is_worker(config) -> bool:
    """Of pytest-xdist, and not the process that reports."""
    return hasattr(config, "workerinput")


def pytest_sessionstart(session):
    """A host that cannot be used is said before any test runs, and not in the middle of one."""
    config = session.config
    if _is_worker(config) or config.option.help:
        return
    asked = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    folders = [here for here in REAL.values() for path in asked if _meet(here, path)]
    if folders:
        from host import comfy_host

        try:
            comfy_host.missing()
        except comfy_host.HostError as error:
            raise pytest.UsageError(str(error)) from None


def _meet(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def pytest_collection_modifyitems(items):
    for folder, here in REAL.items():
        mine = [item for item in items if here in item.path.resolve().parents]
        reason = _why_not(folder) if mine else None
        for item in mine:
            item.add_marker(pytest.mark.host)
            if reason:
                item.add_marker(pytest.mark.skip(reason=_SKIPPED))
    # the longest first, so that no worker is left alone with one of them in the end
    items.sort(key=lambda item: item.get_closest_marker("host") is None)


def pytest_terminal_summary(terminalreporter, config):
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    for folder in REAL:
        if any(_SKIPPED in told and f"tests/{folder}" in told for told in skipped):
            title = f"THE TESTS OF tests/{folder} DID NOT RUN"
            terminalreporter.section(title, sep="!", red=True, bold=True)
            terminalreporter.line(f"Nothing in tests/{folder} was tested: {_why_not(folder)}.")


@pytest.fixture(scope="session")
def host():
    """The running server. Its folders are the session's own, so are its checkpoints."""
    from host.comfy_host import open_host

    with open_host() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def _room_for_others(request):
    """After a file's tests its server gives back what it holds, if that is much: two of them run
    side by side."""
    path = request.path.resolve()
    host = request.getfixturevalue("host") if _drives(path) else None
    yield
    if host is not None:
        host.shrink()
