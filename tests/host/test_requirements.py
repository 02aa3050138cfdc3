"""The pack's requirements leave alone what the host brings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from host.comfy_host import ROOT, find_path, find_python

HOSTS_OWN = {"torch", "torchvision", "torchaudio", "numpy", "pillow", "transformers", "safetensors"}
OURS = ("diffusers", "accelerate", "peft", "prodigyopt", "bitsandbytes")


@pytest.fixture(scope="module")
def as_before(tmp_path_factory):
    """An environment with what the host's has, but for what only the pack requires."""
    host = find_python(find_path())
    there = subprocess.run(
        [str(host), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([str(host), "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    answer = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    here = Path(answer.stdout.strip())
    for entry in Path(there).iterdir():
        if entry.name.lower().startswith(OURS):
            continue
        if entry.suffix == ".dist-info":  # uv overlooks those behind a link
            shutil.copytree(entry, here / entry.name)
        else:
            (here / entry.name).symlink_to(entry)
    return python


def names(found):
    return {name.lower().replace("_", "-") for name in found}


def unreachable(text):
    """Whether an installer failed for want of an index."""
    said = text.lower()
    return "no matching distribution" in said or "error sending request" in said


def test_pip_would_replace_nothing(as_before):
    answer = subprocess.run(
        [
            sys.executable, "-m", "pip", "--python", str(as_before), "install", "--dry-run",
            "--quiet", "--report", "-", "-r", str(ROOT / "requirements.txt"),
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    if answer.returncode and unreachable(answer.stderr):
        pytest.skip("no package index at hand")
    assert answer.returncode == 0, answer.stderr
    new = names(part["metadata"]["name"] for part in json.loads(answer.stdout)["install"])
    assert "diffusers" in new  # or the environment would not be the one before
    assert not new & HOSTS_OWN


def test_uv_would_replace_nothing(as_before):
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    assert uv, "uv is in tests/requirements.txt"
    answer = subprocess.run(
        [
            uv, "pip", "install", "--dry-run", "--python", str(as_before),
            "-r", str(ROOT / "requirements.txt"),
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    if answer.returncode and unreachable(answer.stderr):
        pytest.skip("no package index at hand")
    assert answer.returncode == 0, answer.stderr
    lines = [line.strip() for line in answer.stderr.splitlines()]
    new = names(line[2:].partition("==")[0] for line in lines if line.startswith(("+ ", "- ")))
    assert "diffusers" in new
    assert not new & HOSTS_OWN
