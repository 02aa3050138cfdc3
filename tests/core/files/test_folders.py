"""A folder that cannot be used is named before the work, and the part that is in the way."""

from pathlib import Path

import pytest

from lora2_core.errors import LoRA2Error
from lora2_core.files.folders import make_folder
from lora2_core.runs.run_folder import RunFolder


def test_it_is_made_and_left_empty(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("below", ["file", "file/a", "file/a/b"])
@pytest.mark.parametrize("make", [make_folder, RunFolder])
def test_a_file_in_the_way_is_named(tmp_path, below, make):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(LoRA2Error, match=r"cannot be made: .*/file is a file and no folder"):
        make(tmp_path / below)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux")
def test_a_folder_that_takes_no_files_is_named():
    """Even the administrator cannot write there."""
    with pytest.raises(LoRA2Error, match=r"cannot be (written to|made)"):
        make_folder(Path("/proc/self"))
