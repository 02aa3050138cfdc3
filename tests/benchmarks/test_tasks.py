"""Tasks of whatever subjects a file has."""

import json

import pytest
from tradeoff import tasks

from lora2_core.drawn_world import load_subjects


@pytest.fixture
def others(tmp_path, subjects):
    """So many subjects from a file of one's own."""

    def load(looks):
        path = tmp_path / "subjects.json"
        path.write_text(json.dumps(looks))
        return tasks.tasks(load_subjects(path))

    return load


LOOKS = {
    "plain": {"kind": "mug", "colours": ["#8fdcc0"]},
    "two": {"kind": "robot", "pattern": "striped", "colours": ["#f4f4ee", "#1f9aa0"]},
    "star": {"kind": "cat", "colours": ["#e8b48c"], "emblem": ["star", "#f8d23a"],
             "extra": ["crown", "#f8c820"]},
    "other": {"kind": "mug", "colours": ["#123456"]},
    "duck": {"kind": "duck", "colours": ["#f2826a"]},
    "car": {"kind": "car", "colours": ["#a6d84e"]},
}  # fmt: skip


def test_the_bundled_subjects_fill_every_task(subjects):
    found = tasks.tasks(subjects)
    assert list(found) == ["1: mint mug", "1: plum backpack", "1: racing car", "3 subjects",
                           "10 subjects", "style"]  # fmt: skip
    assert [task.steps for task in found.values()] == [300, 300, 300, 700, 1500, 600]
    assert {s.name for s in found["10 subjects"].subjects} == set(subjects)


def test_with_two_subjects_there_is_one_task_of_both(others):
    found = others({name: LOOKS[name] for name in ("star", "plain")})
    assert list(found) == ["1: plain", "1: star", "2 subjects", "style"]
    assert found["2 subjects"].steps == 500


def test_with_one_there_is_none(others):
    assert list(others({"plain": LOOKS["plain"]})) == ["1: plain", "style"]


def test_of_one_kind_a_group_has_one_since_captions_could_not_tell_them_apart(others):
    found = others(LOOKS)
    assert list(found)[-3:] == ["3 subjects", "5 subjects", "style"]
    kinds = [subject.kind for subject in found["5 subjects"].subjects]
    assert len(set(kinds)) == 5


def test_steps_lie_on_lines_between_those_that_are_set():
    assert [tasks.steps(count) for count in (1, 2, 3, 10, 11)] == [300, 500, 700, 1500, 1614]
    assert 700 < tasks.steps(7) < 1500
