"""The workflows as files: what a page needs that has not got the pack."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_our_nodes_say_which_pack_and_version_they_are_of(path):
    """By these the page offers to install what is missing."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    name, version = (
        re.search(rf'^{key} = "(.+)"$', project, re.MULTILINE)[1] for key in ("name", "version")
    )
    ours = [
        n for n in json.loads(path.read_text("utf-8"))["nodes"] if n["type"].startswith("LoRA2")
    ]
    assert ours
    for node in ours:
        told = node["properties"]
        assert (told["cnr_id"], told["ver"]) == (name, version), node["type"]
