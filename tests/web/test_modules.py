"""The pure picture modules, under node's own test runner."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_the_picture_modules():
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here: the picture modules were not tested")
    files = sorted(str(path) for path in (HERE / "js").glob("*.test.mjs"))
    run = subprocess.run([node, "--test", *files], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "# fail 0" in run.stdout and "# pass 0" not in run.stdout
