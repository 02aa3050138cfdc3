"""Header checks: a hostile or broken file gives LoRA2Error, quickly and without memory."""

import json
import os
import random
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import read
from lora2_core.files.header import MAX_HEADER, TensorInfo, encode_header, read_header

GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def write_raw(path, header: bytes | dict, data: bytes = bytes(16), length: int | None = None):
    """A file with any header; length: what the file says of it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


@pytest.fixture
def adapter(path):
    """A small whole file with metadata and several dtypes."""
    tensors = {
        "lora_unet_a.lora_down.weight": torch.randn(2, 3),
        "lora_unet_a.lora_up.weight": torch.randn(4, 2).half(),
        "lora_unet_a.alpha": torch.tensor(2.0),
    }
    save_file(tensors, path, metadata={"ss_v2": "False", "title": "Läufer 🐕"})
    return path


def test_a_header_says_where_every_tensor_lies(adapter):
    header = read_header(adapter)
    raw = adapter.read_bytes()
    expected = load_file(adapter)
    assert header.metadata == {"ss_v2": "False", "title": "Läufer 🐕"}
    assert set(header.tensors) == set(expected)
    for name, info in header.tensors.items():
        data = raw[header.data_start + info.start : header.data_start + info.end]
        assert info.shape == tuple(expected[name].shape)
        assert data == expected[name].numpy().tobytes()


def test_an_encoded_header_is_read_back_and_aligned(path):
    tensors = {"a": TensorInfo("F32", (2, 2), 0, 16), "ν": TensorInfo("BF16", (), 16, 18)}
    raw = encode_header(tensors, {"title": 'a "quoted" ν'})
    path.write_bytes(raw + bytes(18))
    header = read_header(path)
    assert len(raw) % 8 == 0
    assert header.data_start == len(raw)
    assert header.tensors == tensors
    assert header.metadata == {"title": 'a "quoted" ν'}
    assert set(load_file(path)) == set(tensors)


@pytest.mark.parametrize("metadata", [{"a": 1}, {"a": "\ud800"}, {1: "a"}])
def test_metadata_that_is_not_text_is_not_written(metadata):
    with pytest.raises(LoRA2Error, match="plain text"):
        encode_header({}, metadata)


BROKEN = {
    "gap before": ({"a": GOOD | {"data_offsets": [4, 20]}}, bytes(20), "gap"),
    "bytes left over": ({"a": GOOD}, bytes(17), "17"),
    "bytes missing": ({"a": GOOD}, bytes(15), "15"),
    "overlap": ({"a": GOOD, "b": GOOD | {"data_offsets": [8, 24]}}, bytes(24), "overlaps"),
    "twice the same": ({"a": GOOD, "b": GOOD}, bytes(16), "overlaps"),
    "backwards": ({"a": GOOD | {"data_offsets": [16, 0]}}, bytes(16), "data_offsets"),
    "wrong size": ({"a": GOOD | {"shape": [2, 3]}}, bytes(16), "24 bytes"),
    "negative side": ({"a": GOOD | {"shape": [-2, -2]}}, bytes(16), "shape"),
    "side is true": ({"a": GOOD | {"shape": [True, 4]}}, bytes(16), "shape"),
    "side is a fraction": ({"a": GOOD | {"shape": [4.0]}}, bytes(16), "shape"),
    "shape is text": ({"a": GOOD | {"shape": "22"}}, bytes(16), "shape"),
    "huge side": ({"a": GOOD | {"shape": [2**62, 2]}}, bytes(16), "shape"),
    "huge and empty": (
        {"a": {"dtype": "F32", "shape": [0, 2**62, 8], "data_offsets": [0, 0]}}, b"", "shape",
    ),
    "many dimensions": ({"a": GOOD | {"shape": [1] * 1000 + [4]}}, bytes(16), "shape"),
    "three offsets": ({"a": GOOD | {"data_offsets": [0, 8, 16]}}, bytes(16), "data_offsets"),
    "unknown dtype": ({"a": GOOD | {"dtype": "F33"}}, bytes(16), "'F33'"),
    "dtype is a list": ({"a": GOOD | {"dtype": ["F32"]}}, bytes(16), "dtype"),
    "no dtype": ({"a": {"shape": [4], "data_offsets": [0, 16]}}, bytes(16), "dtype"),
    "entry is a number": ({"a": 3}, bytes(16), "described by 3"),
    "metadata is a list": ({"__metadata__": [], "a": GOOD}, bytes(16), "metadata"),
    "metadata is nested": ({"__metadata__": {"k": {}}, "a": GOOD}, bytes(16), "'k'"),
    "repeated name": (b'{"a":{},"a":{}}', b"", "'a' twice"),
    "repeated field": (
        b'{"a":{"dtype":"F32","shape":[1],"shape":[4],"data_offsets":[0,16]}}', bytes(16),
        "'shape' twice",
    ),
    "half a surrogate": (b'{"\\ud800":{}}', b"", "valid text"),
    "not utf-8": (b'{"\xff":1}', b"", "JSON"),
    "not json": (b"{'a':1}", b"", "JSON"),
    "utf-16": ('{"a":1}'.encode("utf-16-le"), b"", "JSON"),
    "a list": (b"[]", b"", "brace"),
    "leading space": (b" {}", b"", "brace"),
    "NaN": (b'{"a":NaN}', b"", "NaN"),
    "a number of 5000 digits": (b'{"a":' + b"9" * 5000 + b"}", b"", "JSON"),
    "nested without end": (b'{"a":' + b"[" * 100_000, b"", "JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("header", "data", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_header_is_named(path, header, data, said):
    write_raw(path, header, data)
    with pytest.raises(LoRA2Error, match="not a whole safetensors file") as caught:
        read_header(path)
    assert said in str(caught.value)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_without_room_for_a_header_is_named(path, size):
    path.write_bytes(bytes(size))
    with pytest.raises(LoRA2Error, match=f"it has {size} bytes"):
        read_header(path)


@pytest.mark.parametrize("length", [17, 2**40, 2**64 - 1])
def test_a_header_longer_than_the_file_is_named(path, length):
    write_raw(path, b"{}", bytes(14), length)
    with pytest.raises(LoRA2Error, match=f"{length} bytes, but 16"):
        read_header(path)


def test_a_header_beyond_the_formats_limit_is_not_read(path):
    write_raw(path, b"{", b"", MAX_HEADER + 1)
    os.truncate(path, MAX_HEADER + 100)  # sparse: takes no disk
    with pytest.raises(LoRA2Error, match="limit"):
        read_header(path)


def test_a_header_of_an_enormous_file_is_read_without_its_tensors(path):
    sides = [2**17, 2**17]
    size = 2 * 2**34
    write_raw(path, {"a": {"dtype": "F16", "shape": sides, "data_offsets": [0, size]}}, b"")
    os.truncate(path, path.stat().st_size + size)  # 32 GiB, sparse
    before = peak_memory()
    assert read_header(path).tensors["a"].shape == tuple(sides)
    assert peak_memory() - before < 50e6


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_file_cut_anywhere_is_an_error(adapter):
    whole = adapter.read_bytes()
    for size in range(len(whole)):
        adapter.write_bytes(whole[:size])
        with pytest.raises(LoRA2Error):
            read(adapter)


def test_flipped_header_bytes_give_an_error_or_a_right_reading(adapter):
    """Never another exception, and never tensors that safetensors itself reads otherwise."""
    whole = adapter.read_bytes()
    end = read_header(adapter).data_start
    draw = random.Random(0)
    before = peak_memory()
    refused = accepted = 0
    for _ in range(1500):
        broken = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 4))):
            broken[draw.randrange(end)] = draw.choice((draw.randrange(256), *b'0123456789"{}[],:'))
        adapter.write_bytes(broken)
        try:
            found = read(adapter)
        except LoRA2Error:
            refused += 1
            continue
        accepted += 1
        expected = load_file(adapter)
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].shape == tensor.shape
            assert found[name].numpy().tobytes() == tensor.numpy().tobytes()
    assert refused > 800
    assert accepted > 50
    assert peak_memory() - before < 100e6


@pytest.mark.parametrize("name", ["a.pt", "a.CKPT", "a.bin", "a.pkl", "a.pth"])
def test_pickles_are_refused_without_being_opened(tmp_path, name):
    with pytest.raises(LoRA2Error, match=r"convert it to \.safetensors"):
        read_header(tmp_path / name)  # there is no such file: the name is enough


def test_what_is_no_file_is_named(tmp_path, path):
    with pytest.raises(LoRA2Error, match="does not exist"):
        read_header(path)
    with pytest.raises(LoRA2Error, match="is not a file"):
        read_header(tmp_path)
    with pytest.raises(LoRA2Error, match="is not a path"):
        read_header("a\0.safetensors")
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(LoRA2Error, match="is not a file"):
        read_header(pipe)
    with pytest.raises(LoRA2Error, match="cannot be read"):
        read_header(tmp_path / ("a" * 300))
