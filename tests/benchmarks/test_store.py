"""One line a result."""

import pytest
from tradeoff import store, tasks
from tradeoff.contestants import CONTESTANTS

from lora2_core.errors import LoRA2Error


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "new" / "runs.jsonl"
    assert store.read(path) == []
    for number in range(3):
        store.append(path, {"number": number, "σ": 1.5})
    assert store.read(path) == [{"number": number, "σ": 1.5} for number in range(3)]


@pytest.mark.parametrize("torn", ['{"number": 2, "si', "x"])
@pytest.mark.parametrize("before", [0, 2])
def test_a_last_line_that_was_torn_off_is_no_result_and_the_next_one_replaces_it(
    tmp_path, torn, before
):
    path = tmp_path / "runs.jsonl"
    for number in range(before):
        store.append(path, {"number": number})
    with path.open("a") as file:
        file.write(torn)
    assert len(store.read(path)) == before
    store.append(path, {"number": before})
    assert store.read(path) == [{"number": number} for number in range(before + 1)]


def test_other_damage_is_named(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"number": 0}\n{"num\n{"number": 2}\n')
    with pytest.raises(LoRA2Error, match=r"line 2 of .*runs.jsonl is damaged"):
        store.read(path)


def test_a_stamp_tells_tasks_and_settings_apart(subjects):
    known = tasks.tasks(subjects)
    stamps = {
        store.stamp(task, contestant)
        for task in known.values()
        for contestant in CONTESTANTS.values()
    }
    assert len(stamps) == len(known) * len(CONTESTANTS)
