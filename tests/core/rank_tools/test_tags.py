"""What a merge makes of its inputs' tags and trigger words, and what is too large to be carried."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import merged_tags

from lora2_core.commands import merge as command
from lora2_core.files.adapter_file import LoraState, read
from lora2_core.files.header import MAX_HEADER
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, Ingredient, compress, expand, merge, open_adapter
from lora2_core.rank_tools import metadata as bounds

NAME = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


def opened(metadata, title="a"):
    state = LoraState(None, metadata)
    state[f"{NAME}.lora_down.weight"] = torch.ones(1, 24)
    state[f"{NAME}.lora_up.weight"] = torch.ones(24, 1)
    return open_adapter(state, title)


def tagged(table, title="a"):
    text = table if isinstance(table, str) else json.dumps(table)
    return opened({"ss_tag_frequency": text}, title)


def merged(*adapters):
    return merge([Ingredient(one) for one in adapters])


def tags(state):
    return json.loads(state.metadata["ss_tag_frequency"])


counts = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 100), max_size=4)
tables = st.dictionaries(st.sampled_from(["10_dog", "1_cat", "3_狗"]), counts, max_size=3)


@settings(max_examples=30, deadline=None)
@given(st.lists(tables, min_size=1, max_size=4))
def test_counts_are_added_folder_by_folder_and_all_of_them_in_the_first(given_):
    state = merged(*map(tagged, given_)).state
    expected = merged_tags(given_)
    if expected:
        assert tags(state) == expected and list(tags(state)) == list(expected)
    else:
        assert "ss_tag_frequency" not in state.metadata


@settings(max_examples=30, deadline=None)
@given(tables, tables, tables)
def test_a_merge_of_a_merge_counts_nothing_twice(one, two, three):
    a, b, c = map(tagged, (one, two, three))
    both = open_adapter(merged(a, b).state, "both")
    smaller = open_adapter(compress(both, Cut(rank=1)).state, "smaller")
    expected = merged_tags([one, two, three])
    for first in (both, smaller):
        state = merged(first, c).state
        assert (tags(state) if expected else {}) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("3", 3), ('"3"', 3), ("3.0", 3), ("3.7", 3), ("0", 0), ("1e400", 1), ("NaN", 1),
        ('"NaN"', 1), ("-Infinity", 1), ("-5", 1), ("null", 1), ("true", 1), ("[]", 1), ("{}", 1),
        ('"many"', 1), ("9" * 5000, 2**53 - 1), ("-" + "9" * 5000, 1), ("1" + "0" * 30, 2**53 - 1),
        ('"' + "9" * 5000 + '"', 1),
    ],
)  # fmt: skip
def test_a_count_that_is_none_breaks_nothing(tmp_path, written, expected):
    odd = tagged(f'{{"1_dog": {{"dog": {written}, "tail": 2}}, "odd": 5, "1_cat": {{"dog": 1}}}}')
    state = merged(odd, tagged({"1_dog": {"tail": 4}})).state
    found = tags(read(write(state, tmp_path / "x.safetensors", precision="fp16")))
    assert found == {
        "1_dog": {"dog": min(expected + 1, 2**53 - 1), "tail": 6}, "1_cat": {"dog": 1}
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", "[" * 100_000, '{"a": 1}', '{"1_dog": []}', '"\\ud800"']
)
def test_a_table_that_is_none_is_passed_over(text):
    assert tags(merged(tagged(text), tagged({"1_dog": {"dog": 2}})).state) == {"1_dog": {"dog": 2}}
    assert "ss_tag_frequency" not in merged(tagged(text)).state.metadata


def test_half_of_a_surrogate_pair_is_written_as_json_has_it(tmp_path):
    state = merged(tagged('{"1_\\ud800": {"\\udfff dog": 2, "狗": 1}}')).state
    found = read(write(state, tmp_path / "x.safetensors", precision="fp16"))
    assert tags(found) == {"1_\ud800": {"\udfff dog": 2, "狗": 1}}
    assert "狗" in found.metadata["ss_tag_frequency"]


def large(number, folder="1_dog", length=40):
    return {folder: {f"{i:0{length}d}": i % 1000 + 1 for i in range(number)}}


def test_a_large_table_is_kept(tmp_path):
    table = large(20_000)
    source = write(tagged(table).state, tmp_path / "a.safetensors", precision="fp16")
    assert source.stat().st_size > 900_000
    one = open_adapter(source)
    for outcome in (merged(one, tagged({"1_dog": {"x": 1}})), compress(one, Cut(rank=1))):
        kept = tags(outcome.state)["1_dog"]
        assert {tag: kept[tag] for tag in table["1_dog"]} == table["1_dog"]
        assert outcome.left_out == () and "note" not in str(outcome)
    assert tags(expand(one)) == table


def test_of_a_table_beyond_all_bounds_the_most_frequent_tags_stay_and_it_is_said(monkeypatch):
    monkeypatch.setattr(bounds, "_MOST_TAGS", 200_000)
    one, other = tagged(large(2000, length=60)), tagged(large(3000, "1_cat", 70))
    outcome = merged(one, other)
    text = outcome.state.metadata["ss_tag_frequency"]
    assert 0.8 * bounds._MOST_TAGS < len(text) <= bounds._MOST_TAGS
    [(folder, kept)] = tags(outcome.state).items()
    assert folder == "1_dog" and min(kept.values()) > 1 and max(kept.values()) == 1000
    assert f"the {5000 - len(kept)} least frequent of 5000 tags" in str(outcome)


def test_values_beyond_all_bounds_are_left_out_by_name(tmp_path):
    odd = {"ss_datasets": "\x01" * 3_000_000, "ss_comment": "x" * 5_000_000, "ss_seed": "5"}
    one = open_adapter(write(opened(odd).state, tmp_path / "a.safetensors", precision="fp16"))
    outcome = compress(one, Cut(rank=1))
    assert outcome.state.metadata["ss_comment"] == odd["ss_comment"]
    assert outcome.state.metadata["ss_seed"] == "5"
    assert "ss_datasets" not in outcome.state.metadata
    assert "left out: 'ss_datasets' (18.0 MB)" in str(outcome)
    assert expand(one).left_out == outcome.left_out
    path = write(outcome.state, tmp_path / "b.safetensors", precision="fp16")
    assert path.stat().st_size < MAX_HEADER / 4


@pytest.mark.parametrize(
    ("phrases", "expected"),
    [
        (["sks dog", "sks dog, ohwx"], "sks dog, ohwx"),
        (["sks  dog ;ohwx", "|sks dog|\nohwx\r\n", ",, ,"], "sks dog, ohwx"),
        (["Sks Dog", "sks dog"], "Sks Dog"),
        (["狗，猫", "猫、鸟"], "狗, 猫, 鸟"),
        (["a\u2028b\tc", ""], "a, b, c"),
        (["", " ; "], None),
        (["x" * 2_000_000, "dog"], "dog"),
    ],
)
def test_trigger_words_are_joined_once(phrases, expected):
    adapters = [opened({"modelspec.trigger_phrase": phrase}) for phrase in phrases]
    metadata = merged(*adapters).state.metadata
    assert metadata.get("modelspec.trigger_phrase") == expected
    if expected:
        [words] = json.loads(metadata["ss_tag_frequency"]).values()
        assert ", ".join(words) == expected


def test_thousands_of_trigger_words_are_cut_and_it_is_said():
    outcome = merged(opened({"modelspec.trigger_phrase": ",".join(map(str, range(3000)))}))
    assert outcome.state.metadata["modelspec.trigger_phrase"].count(",") == 999
    assert "2000 of the 3000 trigger words" in str(outcome)


def test_a_file_whose_name_is_no_text(tmp_path):
    """Its bytes reach the note of a merge as text that every reader takes."""
    path = tmp_path / "d\udce9.safetensors"
    write(opened({}).state, path, precision="fp16")
    [one] = command.ingredients_of([str(path)])
    found = read(write(merge([one]).state, tmp_path / "x.safetensors", precision="fp16"))
    assert found.metadata["modelspec.merged_from"] == "d\\xe9.safetensors × 1"
