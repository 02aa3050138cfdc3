"""Adapter files: what is written is what every reader gets, and a failure leaves nothing behind."""

import errno
import hashlib
import json
import os
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import (
    Factors,
    LoraState,
    as_state,
    components,
    pack,
    read,
    with_trigger_words,
)
from lora2_core.files.free_name import free_name
from lora2_core.files.header import read_header
from lora2_core.files.layout import PRECISIONS
from lora2_core.files.metadata import training_metadata
from lora2_core.files.writing import write, write_new

RANKS = (1, 2, 3, 64, 255, 257, 512)
# fp16: rounding costs at most 2^-11 an element, 0.6 of that in the mean square, for two factors.
# bf16: three bits fewer.
BOUNDS = {"fp32": 1e-6, "fp16": 5e-4, "bf16": 4e-3}
MODULE = "input_blocks.4.1.transformer_blocks.0.attn1"


def factors(rank: int, n=(48,), m: int = 40, seed: int = 0, size: float = 1.0):
    draw = torch.Generator().manual_seed(seed)
    down = size * torch.randn(rank, *n, generator=draw)
    return down, torch.randn(m, rank, *(1 for _ in n[1:]), generator=draw)


@pytest.fixture
def folded():
    """Linear layers of every rank, and a convolution."""
    found = {f"{MODULE}.to_{rank}": factors(rank, seed=rank) for rank in RANKS}
    return found | {"input_blocks.1.0.in_layers.2": factors(5, n=(6, 3, 3))}


@pytest.fixture
def state(folded):
    return pack(folded, metadata={"ss_v2": "False"})


def kohya_update(tensors: dict, name: str) -> torch.Tensor:
    """ΔW by kohya's definition, in fp64; no alpha means scale 1."""
    down, up = (tensors[f"{name}.lora_{role}.weight"].double() for role in ("down", "up"))
    rank = down.shape[0]
    alpha = float(tensors.get(f"{name}.alpha", rank))
    return alpha / rank * torch.einsum("mr,rn->mn", up.flatten(1), down.flatten(1))


def without_alpha(state: LoraState) -> LoraState:
    """The same adapter in the other common form: no alpha, which means scale 1."""
    found = LoraState()
    for name, part in components(state).items():
        found[f"{name}.lora_down.weight"] = part.down
        found[f"{name}.lora_up.weight"] = part.up * part.scale
    return found


def names(tensors) -> set[str]:
    return {key.split(".")[0] for key in tensors}


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# --- pack ---------------------------------------------------------------------------------------


def test_packed_factors_have_kohyas_names_and_one_alpha(folded, state):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_257"
    down, up = folded[f"{MODULE}.to_257"]
    assert torch.equal(state[f"{name}.lora_down.weight"], down)
    assert torch.equal(state[f"{name}.lora_up.weight"], 257 * up)
    assert {float(state[key]) for key in state if key.endswith(".alpha")} == {1.0}
    assert state[f"{name}.alpha"].shape == ()
    assert len(state) == 3 * len(folded)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert state.metadata == {"ss_v2": "False"}


def test_equal_ranks_are_packed_bit_for_bit_with_alpha_equal_to_rank():
    down, up = factors(5)
    state = pack({"a.b": (down, up), "a.c": (down, up)}, metadata={})
    assert torch.equal(state["lora_unet_a_c.lora_up.weight"], up)
    assert state["lora_unet_a_c.alpha"] == 5


def test_packed_tensors_own_their_memory(tmp_path):
    both = torch.randn(8, 8)
    state = pack({"a.b": (both[:2], both[:, :2]), "a.c": (both[:2], both[:, :2])}, metadata={})
    storages = [tensor.untyped_storage().data_ptr() for tensor in state.values()]
    assert len(set(storages)) == len(state)
    assert all(tensor.is_contiguous() for tensor in state.values())
    before = state["lora_unet_a_b.lora_down.weight"].clone()
    both.zero_()
    assert torch.equal(state["lora_unet_a_b.lora_down.weight"], before)
    save_file(state, tmp_path / "host.safetensors")  # refuses shared and strided tensors
    assert isinstance(state, dict)


def test_two_modules_with_one_name_in_the_file_are_refused():
    with pytest.raises(LoRA2Error, match="lora_unet_a_b_c"):
        pack({"a.b_c": factors(2), "a_b.c": factors(2)}, metadata={})


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(LoRA2Error, match=r"3×48.*40×2"):
        pack({"a.b": (factors(3)[0], factors(2)[1])}, metadata={})


# --- property 7: every loader gets the same ΔW ---------------------------------------------------


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("with_alpha", [True, False])
def test_a_saved_file_gives_the_same_update(state, tmp_path, precision, with_alpha):
    if not with_alpha:
        state = without_alpha(state)
    path = write(state, tmp_path / "a.safetensors", precision=precision)
    plain, ours = load_file(path), components(read(path))
    assert set(ours) == names(plain) == names(state)
    for name in names(state):
        expected = kohya_update(state, name)
        assert error(kohya_update(plain, name), expected) <= BOUNDS[precision]
        delta = ours[name].delta()
        assert delta.dtype == torch.float32
        assert error(delta.double().flatten(1), expected) <= BOUNDS[precision]
    assert ours["lora_unet_input_blocks_1_0_in_layers_2"].delta().shape == (40, 6, 3, 3)


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_file_of_unequal_ranks_has_one_alpha_in_fp32(state, tmp_path, precision):
    plain = load_file(write(state, tmp_path / "a.safetensors", precision=precision))
    alphas = [tensor for key, tensor in plain.items() if key.endswith(".alpha")]
    assert len(alphas) == len(RANKS) + 1
    assert {(float(alpha), alpha.dtype) for alpha in alphas} == {(1.0, torch.float32)}
    kinds = {t.dtype for key, t in plain.items() if not key.endswith(".alpha")}
    assert kinds == {PRECISIONS[precision]}


def test_factors_with_one_alpha_are_stored_bit_for_bit(tmp_path):
    state = pack({"a.b": factors(257), "a.c": factors(257, seed=1)}, metadata={})
    plain = load_file(write(state, tmp_path / "a.safetensors", precision="fp32"))
    assert set(plain) == set(state)
    assert all(torch.equal(plain[key], tensor) for key, tensor in state.items())
    assert plain["lora_unet_a_b.alpha"] == 257  # bf16 would make it 256


@pytest.mark.parametrize("size", [1e-4, 1e-7, 3e-9])
def test_a_factor_below_fp16s_normal_numbers_keeps_its_digits(tmp_path, size):
    state = pack({"a.b": factors(16, size=size), "a.c": factors(3, size=10.0)}, metadata={})
    path = write(state, tmp_path / "a.safetensors", precision="fp16")
    plain = load_file(path)
    for name in names(state):
        assert error(kohya_update(plain, name), kohya_update(state, name)) <= BOUNDS["fp16"]


def test_an_untrained_adapter_can_be_saved(tmp_path):
    down, up = factors(4)
    state = pack({"a.b": (down, torch.zeros_like(up))}, metadata={})
    path = write(state, tmp_path / "a.safetensors", precision="fp16")
    assert components(read(path))["lora_unet_a_b"].delta().count_nonzero() == 0


def test_an_adapter_of_another_kind_is_written_as_it_is(tmp_path):
    state = as_state({"diffusion_model.a.hada_w1_a": torch.randn(3, 4)})
    plain = load_file(write(state, tmp_path / "a.safetensors", precision="fp32"))
    assert torch.equal(plain["diffusion_model.a.hada_w1_a"], state["diffusion_model.a.hada_w1_a"])


def test_tensors_read_survive_their_file(state, tmp_path):
    path = write(state, tmp_path / "a.safetensors", precision="fp32")
    found = read(path)
    expected = {key: tensor.clone() for key, tensor in found.items()}
    path.write_bytes(bytes(path.stat().st_size))  # a view of the file would change with it
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert found.metadata["ss_v2"] == "False"


def test_components_come_in_the_order_of_the_model(state, tmp_path):
    expected = list(components(state))
    for precision in BOUNDS:
        path = write(state, tmp_path / f"{precision}.safetensors", precision=precision)
        assert list(components(read(path))) == expected


# --- the hashes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", BOUNDS)
def test_the_hashes_are_those_of_the_bytes_after_the_header(state, tmp_path, precision):
    path = write(state, tmp_path / "a.safetensors", precision=precision)
    raw = path.read_bytes()
    tensors = raw[8 + int.from_bytes(raw[:8], "little") :]
    digest = hashlib.sha256(tensors).hexdigest()
    metadata = read_header(path).metadata
    assert metadata["sshs_model_hash"] == digest
    assert metadata["modelspec.hash_sha256"] == f"0x{digest}"


def test_nothing_is_not_saved(tmp_path):
    with pytest.raises(LoRA2Error, match="holds no tensors"):
        write(LoraState(), tmp_path / "a.safetensors", precision="fp32")
    assert list(tmp_path.iterdir()) == []


# --- values that a file cannot hold ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "precision", "said"),
    [
        (float("nan"), "fp32", "NaN or infinite"),
        (float("inf"), "bf16", "NaN or infinite"),
        (float("-inf"), "fp16", "NaN or infinite"),
        (1e12, "fp16", "save in bf16 or fp32"),
        (3.4e38, "bf16", "beyond the range of bf16"),
    ],
)
def test_a_value_that_cannot_be_stored_names_its_component(tmp_path, value, precision, said):
    state = pack({"a.b": factors(4), "a.c": factors(4)}, metadata={})
    state["lora_unet_a_c.lora_down.weight"][1, 2] = value
    with pytest.raises(LoRA2Error, match=said) as caught:
        write(state, tmp_path / "new" / "a.safetensors", precision=precision)
    assert "lora_unet_a_c" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_factor_beyond_fp16_hands_size_to_the_other(tmp_path):
    state = pack({"a.b": factors(4)}, metadata={})
    state["lora_unet_a_b.lora_down.weight"] *= 1e5
    saved = components(read(write(state, tmp_path / "a.safetensors", precision="fp16")))
    expected = components(state)["lora_unet_a_b"].delta()
    assert error(saved["lora_unet_a_b"].delta(), expected) <= BOUNDS["fp16"]


def test_numbers_that_are_not_floating_are_not_saved(tmp_path):
    state = LoraState({"lora_unet_a.lora_up.weight": torch.ones(2, 2, dtype=torch.int64)})
    with pytest.raises(LoRA2Error, match=r"lora_unet_a\.lora_up.*int64"):
        write(state, tmp_path / "a.safetensors", precision="fp32")


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_no_number_is_named(tmp_path, alpha):
    state = pack({"a.b": factors(4), "a.c": factors(5)}, metadata={})
    state["lora_unet_a_b.alpha"] = torch.tensor(alpha)
    with pytest.raises(LoRA2Error, match=r"lora_unet_a_b\.alpha"):
        components(state)
    with pytest.raises(LoRA2Error):
        write(state, tmp_path / "a.safetensors", precision="fp32")


@pytest.mark.parametrize(
    ("name", "precision", "said"),
    [
        ("a.pt", "fp32", "ending in"),
        ("a\0.safetensors", "fp32", "ending in"),
        ("a", "fp32", "ending in"),
        ("a.safetensors", "fp8", "'fp8'; choose one of fp32, fp16, bf16"),
    ],
)
def test_a_wrong_name_or_precision_is_refused(state, tmp_path, name, precision, said):
    with pytest.raises(LoRA2Error, match=said):
        write(state, tmp_path / name, precision=precision)
    assert list(tmp_path.iterdir()) == []


# --- a write is whole or absent -------------------------------------------------------------------


def test_an_existing_file_is_replaced_only_when_asked(state, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(LoRA2Error, match="exists already"):
        write(state, path, precision="fp16")
    assert path.read_bytes() == b"precious"
    write(state, path, precision="fp16", overwrite=True)
    assert len(components(read(path))) == len(RANKS) + 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_dangling_link_counts_as_a_file(state, tmp_path):
    path = tmp_path / "a.safetensors"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LoRA2Error, match="exists already"):
        write(state, path, precision="fp16")
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture(params=["hard links", "no hard links"])
def links(request, monkeypatch):
    """File systems such as FAT have no hard links."""
    if request.param == "no hard links":

        def refuse(source, target):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)


def test_a_file_made_during_the_write_is_not_replaced(state, tmp_path, monkeypatch, links):
    path = tmp_path / "a.safetensors"
    fsync = os.fsync

    def someone_is_faster(descriptor):
        fsync(descriptor)
        path.write_bytes(b"precious")

    monkeypatch.setattr(os, "fsync", someone_is_faster)
    with pytest.raises(LoRA2Error, match="exists already"):
        write(state, path, precision="fp16")
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_name_is_taken_when_the_first_is_snatched(state, tmp_path, monkeypatch, links):
    fsync, snatched = os.fsync, tmp_path / "a_00001.safetensors"

    def someone_is_faster(descriptor):
        fsync(descriptor)
        snatched.write_bytes(b"precious")

    monkeypatch.setattr(os, "fsync", someone_is_faster)
    path = write_new(state, tmp_path, "a", precision="fp16")
    assert path == tmp_path / "a_00002.safetensors"
    assert snatched.read_bytes() == b"precious"
    assert set(tmp_path.iterdir()) == {path, snatched}
    assert len(components(read(path))) == len(RANKS) + 1


@contextmanager
def files_of_at_most(size: int):
    """The kernel refuses to let any file grow past `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_write_that_stops_half_way_leaves_nothing(state, tmp_path, overwrite):
    path = tmp_path / "dogs" / "rex" / "a.safetensors"
    with pytest.raises(LoRA2Error, match=r"cannot be written \(File too large\)"):  # noqa: SIM117
        with files_of_at_most(50_000):
            write(state, path, precision="fp32", overwrite=overwrite)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(state, tmp_path, monkeypatch, call):
    path = tmp_path / "a.safetensors"
    overwrite = call == "replace"
    if overwrite:
        path.write_bytes(b"precious")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(LoRA2Error, match="No space left on device") as caught:
        write(state, path, precision="fp16", overwrite=overwrite)
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == ([path] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"precious"


def test_a_failed_claim_is_given_back(state, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(LoRA2Error, match="cannot be written"):
        write(state, tmp_path / "a.safetensors", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing(state, tmp_path, monkeypatch):
    class Cancelled(BaseException):
        pass

    def cancel(descriptor):
        raise Cancelled

    monkeypatch.setattr(os, "fsync", cancel)
    with pytest.raises(Cancelled):
        write(state, tmp_path / "dogs" / "a.safetensors", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_file_is_named(state, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(LoRA2Error, match="cannot be written"):
        write(state, tmp_path / "file" / "a.safetensors", precision="fp16")
    with pytest.raises(LoRA2Error, match="cannot be written"):
        write(state, tmp_path / "folder.safetensors", precision="fp16", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.safetensors"}


def test_a_saved_file_has_the_permissions_of_any_new_file(state, tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    path = write(state, tmp_path / "a.safetensors", precision="fp16")
    assert path.stat().st_mode == ordinary.stat().st_mode


# --- names from a graph ---------------------------------------------------------------------------


def test_the_first_free_number_is_chosen(tmp_path):
    assert free_name(tmp_path, "a") == tmp_path / "a_00001.safetensors"
    (tmp_path / "a_00001.safetensors").touch()
    (tmp_path / "a_00002.safetensors").symlink_to("nowhere")
    (tmp_path / "a_00004.safetensors").touch()
    assert free_name(tmp_path, "a") == tmp_path / "a_00003.safetensors"
    assert free_name(tmp_path, " dogs/rex ") == tmp_path / "dogs" / "rex_00001.safetensors"
    assert free_name(tmp_path, "größe 2.5", ".json") == tmp_path / "größe 2.5_00001.json"
    assert not (tmp_path / "dogs").exists()


@pytest.mark.parametrize(
    "prefix",
    [
        *("", " ", ".", "..", "/", "../a", "a/../../b", "a/..", "/etc/a", "//host/a", "a//b", "a/"),
        *("C:/a", "C:a", "a\\b", "..\\a", "a\0b", "a\nb", "a:x", "a*", "a?", 'a"', "a|b", "<a>"),
        *(".. /a", "... /a", "a./b", "CON/a", "nul", "com1.x", "lpt9/a", "a" * 300, "\ud800"),
    ],
)
def test_a_name_never_leaves_its_folder(tmp_path, prefix):
    with pytest.raises(LoRA2Error, match="cannot be used"):
        free_name(tmp_path / "loras", prefix)
    assert list(tmp_path.iterdir()) == []


def test_a_link_does_not_lead_out_of_the_folder(tmp_path):
    loras, outside = tmp_path / "loras", tmp_path / "outside"
    loras.mkdir()
    outside.mkdir()
    (loras / "out").symlink_to(outside)
    (loras / "round").symlink_to("round")
    (loras / "inside").symlink_to(loras)
    with pytest.raises(LoRA2Error, match="'out/a' leads out of"):
        free_name(loras, "out/a")
    with pytest.raises(LoRA2Error, match="'round/a' leads"):
        free_name(loras, "round/a")
    assert free_name(loras, "inside/a") == loras / "a_00001.safetensors"


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "loras").symlink_to(tmp_path / "disk")
    assert free_name(tmp_path / "loras", "a") == tmp_path / "disk" / "a_00001.safetensors"


# --- somebody else's files ------------------------------------------------------------------------

STYLES = {
    "kohya": ("lora_unet_mid_to_q", ".lora_down.weight", ".lora_up.weight"),
    "kohya text": ("lora_te2_text_model_layers_0_mlp_fc1", ".lora_down.weight", ".lora_up.weight"),
    "host": ("diffusion_model.mid.to_q", ".lora_down.weight", ".lora_up.weight"),
    "host peft": ("diffusion_model.mid.to_q", ".lora_A.weight", ".lora_B.weight"),
    "diffusers": ("unet.mid.to_q", ".lora.down.weight", ".lora.up.weight"),
    "old diffusers": ("unet.mid.processor.to_q", "_lora.down.weight", "_lora.up.weight"),
    "diffusers text": (
        "text_encoder.k_proj", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight",
    ),
    "peft": ("base_model.model.mid.to_q", ".lora_A.weight", ".lora_B.weight"),
    "peft named": ("mid.to_q", ".lora_A.default.weight", ".lora_B.default.weight"),
    "peft parameter": ("mid.to_q", ".lora_A", ".lora_B"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "down", "up"), STYLES.values(), ids=STYLES.keys())
@pytest.mark.parametrize(
    ("alpha", "scale"),
    [(None, 1.0), (torch.tensor(4), 0.5), (torch.tensor([2.0]).half(), 0.25)],
)
def test_every_naming_style_is_read(tmp_path, name, down, up, alpha, scale):
    a, b = factors(8)
    tensors = {name + up: b.half(), name + down: a.half()}
    if alpha is not None:
        tensors[f"{name}.alpha"] = alpha
    save_file(tensors, tmp_path / "a.safetensors")
    found = components(read(tmp_path / "a.safetensors"))
    assert list(found) == [name]
    assert found[name].rank == 8
    assert found[name].scale == scale
    assert found[name].alpha == (None if alpha is None else float(alpha))
    assert error(found[name].delta(), scale * b.half().float() @ a.half().float()) <= 1e-6


def test_a_middle_factor_is_folded_into_down():
    down, mid, up = torch.randn(5, 6, 1, 1), torch.randn(5, 5, 3, 3), torch.randn(7, 5, 1, 1)
    x = torch.randn(2, 6, 8, 8)
    expected = F.conv2d(F.conv2d(F.conv2d(x, down), mid, padding=1), up) * (2 / 5)
    state = {
        "lora_unet_a.lora_down.weight": down,
        "lora_unet_a.lora_mid.weight": mid,
        "lora_unet_a.lora_up.weight": up,
        "lora_unet_a.alpha": torch.tensor(2.0),
    }
    found = components(state)["lora_unet_a"]
    assert found.down.shape == (5, 6, 3, 3)
    assert error(F.conv2d(x, found.delta(), padding=1), expected) <= 1e-5


def tensors_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {f"a.lora_{role}.weight": torch.ones(shape) for role, shape in shapes.items()}


BROKEN = {
    "no up": ({"down": (2, 3)}, r"a\.lora_down\.weight' of shape 2×3 has no up"),
    "no down": ({"up": (3, 2)}, r"a\.lora_up\.weight' of shape 3×2 has no down"),
    "only mid": ({"mid": (2, 2, 3, 3)}, "has no down"),
    "ranks differ": ({"down": (2, 3), "up": (3, 4)}, "do not fit together.*2×3.*3×4"),
    "sides differ": ({"down": (2, 3, 3, 3), "up": (3, 2)}, "do not fit together"),
    "up has a kernel": ({"down": (2, 3, 3, 3), "up": (3, 2, 3, 3)}, "do not fit together"),
    "mid of another rank": (
        {"down": (2, 3, 1, 1), "mid": (2, 3, 3, 3), "up": (3, 2, 1, 1)}, "do not fit together",
    ),
    "mid of a huge kernel": (
        {"down": (1, 3, 1, 1), "mid": (1, 1, 999, 999), "up": (3, 1, 1, 1)}, "do not fit",
    ),
    "one side": ({"down": (2,), "up": (2,)}, "a.lora_down.weight' has shape 2;"),
    "three sides": ({"down": (2, 3, 1), "up": (3, 2, 1)}, "2×3×1"),
    "rank 0": ({"down": (0, 3), "up": (3, 0)}, "0×3"),
}  # fmt: skip


@pytest.mark.parametrize(("shapes", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_factors_that_are_broken_are_named(shapes, said):
    with pytest.raises(LoRA2Error, match=said):
        components(tensors_of(shapes))


def test_other_tensors_that_make_no_sense_are_named():
    whole = tensors_of({"down": (2, 3), "up": (3, 2)})
    with pytest.raises(LoRA2Error, match=r"a\.lora_up\.weight.*floating-point"):
        components(whole | {"a.lora_up.weight": torch.ones(3, 2, dtype=torch.int32)})
    with pytest.raises(LoRA2Error, match=r"'a\.alpha' has shape 2 "):
        components(whole | {"a.alpha": torch.ones(2)})
    with pytest.raises(LoRA2Error, match="'logit_scale' is not part of a LoRA"):
        components({"logit_scale": torch.ones(1)})
    with pytest.raises(LoRA2Error, match="two down factors"):
        components(whole | {"a.lora_A.weight": torch.ones(2, 3)})
    with pytest.raises(LoRA2Error, match="holds no LoRA"):
        components({})


def test_scale_is_alpha_over_rank():
    down, up = factors(4)
    assert Factors(down, up, None).scale == 1
    assert Factors(down, up, 8.0).scale == 2
    assert error(Factors(down, up, 8.0).delta(), 2 * up @ down) <= 1e-6


# --- any LORA_MODEL as a state --------------------------------------------------------------------


def test_a_lora_of_the_host_gets_kohyas_names():
    down, up = factors(4)
    host = {
        "diffusion_model.mid.1.to_out.0.lora_up.weight": up,
        "diffusion_model.mid.1.to_out.0.lora_down.weight": down,
        "diffusion_model.mid.1.to_out.0.alpha": torch.tensor(1.0),
    }
    found = as_state(host)
    name = "lora_unet_mid_1_to_out_0"
    assert set(found) == {f"{name}.lora_up.weight", f"{name}.lora_down.weight", f"{name}.alpha"}
    assert error(components(found)[name].delta(), up @ down / 4) <= 1e-6


def test_other_loras_stay_as_they_are(state):
    assert as_state(state) is state
    plain = dict(state)
    assert as_state(plain) == plain
    assert isinstance(as_state(plain), LoraState)
    odd = {"diffusion_model.a.diff_b": torch.ones(2), "b.diff": torch.ones(2)}
    assert as_state(odd) == odd


# --- metadata -------------------------------------------------------------------------------------

SETTINGS = {
    "learning_rate": 5e-5, "steps": 500, "seed": 0, "dtype": "fp32", "quantile": 0.9,
    "targets": "attention",
}  # fmt: skip


def test_metadata_says_what_is_known_and_nothing_else():
    found = training_metadata(
        method="lora2", settings=SETTINGS, ranks={"a.b": (0.25, 9), "a.c": (None, 4)}, steps=123
    )
    assert all(isinstance(value, str) for value in found.values())
    assert found["ss_base_model_version"] == "sdxl_base_v1-0"
    assert found["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert found["ss_network_dim"] == found["ss_network_alpha"] == "Dynamic"
    assert found["ss_v2"] == "False"
    assert (found["ss_steps"], found["ss_max_train_steps"]) == ("123", "500")
    assert found["ss_seed"] == "0"
    assert found["ss_mixed_precision"] == "no"
    assert json.loads(found["ss_network_args"]) == {"method": "lora2", **SETTINGS}
    assert json.loads(found["lora2"]) == {
        "format_version": 1,
        "method": "lora2",
        "q": 0.9,
        "targets": "attention",
        "components": {"lora_unet_a_b": [0.25, 9], "lora_unet_a_c": [None, 4]},
    }
    unknown = {
        "ss_sd_model_name", "ss_sd_model_hash", "ss_optimizer", "ss_num_train_images",
        "ss_resolution", "ss_training_started_at", "ss_training_comment", "ss_tag_frequency",
        "ss_datasets", "modelspec.resolution", "modelspec.prediction_type", "modelspec.title",
        "modelspec.trigger_phrase", "modelspec.usage_hint", "sshs_model_hash",
    }  # fmt: skip
    assert not unknown & set(found)


def test_metadata_of_a_run_of_which_all_is_known():
    found = training_metadata(
        method="lora",
        settings=SETTINGS,
        ranks={},
        base_model="sd_xl_base_1.0",
        base_model_hash="abc",
        trigger_words="sks dog,  red\nball ,,",
        title="Rex",
        optimizer="AdamW",
        train_images=5,
        resolution=(1024, 768),
        prediction_type="epsilon",
        comment="on a Tuesday",
        usage_hint="strength 1",
        started_at=0.0,
        finished_at=86400.5,
    )
    assert found["ss_resolution"] == "(1024, 768)"
    assert found["modelspec.resolution"] == "1024x768"
    assert found["modelspec.date"] == "1970-01-02T00:00:00+00:00"
    assert found["ss_training_started_at"] == "0.0"
    assert found["modelspec.title"] == found["ss_output_name"] == "Rex"
    assert found["modelspec.trigger_phrase"] == "sks dog, red ball"
    tags = {"sks dog": 5, "red ball": 5}
    assert list(json.loads(found["ss_tag_frequency"]).values()) == [tags]
    assert list(json.loads(found["ss_datasets"])[0]["tag_frequency"].values()) == [tags]


def test_trigger_words_are_added_without_touching_the_original(state):
    found = with_trigger_words(state, "rex")
    assert found.metadata["modelspec.trigger_phrase"] == "rex"
    assert found.metadata["ss_v2"] == "False"
    assert state.metadata == {"ss_v2": "False"}
    assert dict(found) == dict(state)
    assert with_trigger_words(state, " , ").metadata == state.metadata


def test_a_file_without_a_title_is_titled_by_its_name(folded, tmp_path):
    metadata = training_metadata(method="lora2", settings=SETTINGS, ranks={})
    path = write(pack(folded, metadata=metadata), tmp_path / "rex.safetensors", precision="fp16")
    found = read(path).metadata
    assert found["modelspec.title"] == found["ss_output_name"] == "rex"
    again = write(read(path), tmp_path / "copy.safetensors", precision="fp16")
    assert read(again).metadata["modelspec.title"] == "rex"
    assert {k: v for k, v in found.items() if "hash" in k} == {
        k: v for k, v in read(again).metadata.items() if "hash" in k
    }
