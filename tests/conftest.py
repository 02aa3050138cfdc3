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

MISSING = pytest.StashKey[dict[str, str]]()


def _why_not(folder: str) -> str | None:
    """Why the tests of host/ or web/ cannot run."""
    from host import comfy_host  # late: it needs packages that the core's tests do without

    try:
        reason = comfy_host.missing()
    except comfy_host.HostError as error:
        raise pytest.UsageError(str(error)) from None
    if reason:
        return f"no ComfyUI: {reason}"
    if folder == "web":
        from web import page

        return None if page.chromium() else "no Chromium on the PATH"
    return None


def pytest_collection_modifyitems(config, items):
    config.stash[MISSING] = {}
    for folder in ("host", "web"):
        here = ROOT / "tests" / folder
        mine = [item for item in items if here in item.path.resolve().parents]
        reason = _why_not(folder) if mine else None
        for item in mine:
            item.add_marker(pytest.mark.host)
            if reason:
                item.add_marker(pytest.mark.skip(reason="no host; the end says why"))
        if reason:
            config.stash[MISSING][folder] = reason


def pytest_terminal_summary(terminalreporter, config):
    for folder, reason in config.stash.get(MISSING, {}).items():
        title = f"THE TESTS OF tests/{folder} DID NOT RUN"
        terminalreporter.section(title, sep="!", red=True, bold=True)
        terminalreporter.line(f"Nothing in tests/{folder} was tested: {reason}.", red=True)


@pytest.fixture(scope="session")
def host():
    """The running server. Its folders are the session's own, so are its checkpoints."""
    from host.comfy_host import open_host

    with open_host() as running:
        yield running
