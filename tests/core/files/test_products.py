"""LoHa, LoKr and the Tucker form as two factors, against their dense updates."""

import itertools

import pytest
import reference
import torch

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import components
from lora2_core.files.alphas import alphas
from lora2_core.files.stored import Seen, contents, seen, stored_components


def drawn(shapes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {key: torch.randn(*shape, generator=draw) for key, shape in shapes.items()}


def error(found, expected):
    return float((found.double().flatten(1) - expected.flatten(1)).norm() / expected.norm())


def loha(m=24, n=20, r=(3, 2), core=None):
    """Parts of a LoHa; core: (k, s) for the Tucker form of a k × k kernel."""
    shapes = {}
    for number, rank in zip((1, 2), r, strict=True):
        if core is None:
            shapes |= {f"hada_w{number}_a": (m, rank), f"hada_w{number}_b": (rank, n)}
        else:
            kernel, inner = core
            shapes |= {f"hada_w{number}_a": (rank, m), f"hada_w{number}_b": (inner, n),
                       f"hada_t{number}": (rank, inner, kernel, kernel)}  # fmt: skip
    return drawn(shapes)


def state_of(parts, alpha=None, name="lora_unet_a"):
    state = {f"{name}.{role}": tensor for role, tensor in parts.items()}
    return state if alpha is None else state | {f"{name}.alpha": torch.tensor(float(alpha))}


def dense_loha(parts, alpha):
    keys = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    return reference.loha(
        *(parts[key] for key in keys), alpha, parts.get("hada_t1"), parts.get("hada_t2")
    )


@pytest.mark.parametrize("alpha", [None, 1.5, 0.0, -2.0])
@pytest.mark.parametrize(
    ("sizes", "rank"),
    [
        ({}, 6),
        ({"r": (4, 5)}, 20),
        ({"r": (5, 5)}, 20),  # more than a side has: one factor is ΔW itself
        ({"m": 8, "n": 40, "r": (4, 4)}, 8),
        ({"core": (3, 3)}, 6),
        ({"core": (3, 2), "r": (6, 6)}, 24),
        ({"core": (1, 4), "r": (6, 6)}, 20),
    ],
)
def test_a_loha_is_its_dense_update(sizes, rank, alpha):
    parts = loha(**sizes)
    found = components(state_of(parts, alpha))["lora_unet_a"]
    expected = dense_loha(parts, alpha)
    assert found.rank == rank
    assert found.delta().shape == expected.shape
    assert torch.allclose(found.delta().double(), expected, atol=1e-5 * float(expected.norm()))
    assert stored_components(seen(state_of(parts)))[0].shape == tuple(expected.shape)


W1 = {"whole": {"lokr_w1": (3, 4)}, "factors": {"lokr_w1_a": (3, 2), "lokr_w1_b": (2, 4)},
      "more factors": {"lokr_w1_a": (3, 5), "lokr_w1_b": (5, 4)}}  # fmt: skip
W2 = {"whole": {"lokr_w2": (6, 5)}, "kernel": {"lokr_w2": (6, 5, 3, 3)},
      "factors": {"lokr_w2_a": (6, 2), "lokr_w2_b": (2, 5)},
      "more factors": {"lokr_w2_a": (6, 9), "lokr_w2_b": (9, 5)},
      "core": {"lokr_w2_a": (2, 6), "lokr_w2_b": (3, 5), "lokr_t2": (2, 3, 3, 3)}}  # fmt: skip


@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(W1, W2)))
def test_a_lokr_is_its_dense_update(first, second, alpha):
    drawn_parts = drawn(W1[first] | W2[second])
    parts = {key: tensor.double() for key, tensor in drawn_parts.items()}
    w1 = parts["lokr_w1"] if first == "whole" else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        w2 = parts["lokr_w2"]
    elif second == "core":
        w2 = reference.tucker(parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
    else:
        w2 = parts["lokr_w2_a"] @ parts["lokr_w2_b"]
    rank = next((parts[k].shape[0] for k in ("lokr_w2_b", "lokr_w1_b") if k in parts), None)
    expected = reference.lokr(w1, w2, alpha, rank)
    state = state_of(drawn_parts, alpha)
    found = components(state)["lora_unet_a"]
    assert found.delta().shape == expected.shape
    assert error(found.delta(), expected) < 1e-6
    ranks = [int(torch.linalg.matrix_rank(w.double().flatten(1))) for w in (w1, w2)]
    assert found.rank == ranks[0] * ranks[1]
    assert alphas(state, stored_components(seen(state))) == {"lora_unet_a": alpha}


BROKEN = {
    "one half": {"hada_w1_a": (2, 2), "hada_w1_b": (2, 2)},
    "one core": dict.fromkeys(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), (2, 2))
    | {"hada_t1": (2, 2, 3, 3)},
    "two shapes": {"hada_w1_a": (4, 2), "hada_w1_b": (2, 4), "hada_w2_a": (4, 2),
                   "hada_w2_b": (2, 5)},
    "ranks differ": {"hada_w1_a": (4, 2), "hada_w1_b": (3, 4), "hada_w2_a": (4, 2),
                     "hada_w2_b": (2, 4)},
    "one side": {"hada_w1_a": (4,), "hada_w1_b": (4,), "hada_w2_a": (4,), "hada_w2_b": (4,)},
    "w1 alone": {"lokr_w1": (2, 2)},
    "half of w2": {"lokr_w1": (2, 2), "lokr_w2_a": (2, 2)},
    "w2 twice": {"lokr_w1": (2, 2), "lokr_w2": (2, 2), "lokr_w2_a": (2, 2), "lokr_w2_b": (2, 2)},
    "a kernel in w1": {"lokr_w1": (2, 2, 3, 3), "lokr_w2": (2, 2)},
    "nothing in it": {"lokr_w1": (2, 0), "lokr_w2": (2, 2)},
}  # fmt: skip


@pytest.mark.parametrize("shapes", BROKEN.values(), ids=BROKEN.keys())
def test_parts_that_do_not_fit_are_named(shapes):
    with pytest.raises(LoRA2Error, match=r"'lora_unet_a', a Lo(Ha|Kr), do not fit together"):
        stored_components(seen(state_of({key: torch.ones(s) for key, s in shapes.items()})))


def test_a_small_file_cannot_ask_for_a_huge_matrix():
    tensors = {f"a.{role}": Seen((60_000, 1) if role.endswith("a") else (1, 60_000), True)
               for role in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}  # fmt: skip
    with pytest.raises(LoRA2Error, match=r"'a', a LoHa, is of 60000×60000"):
        contents(tensors)
    with pytest.raises(LoRA2Error, match=r"'a', a LoKr, is of 40000×40000"):
        contents({"a.lokr_w1": Seen((200, 200), True), "a.lokr_w2": Seen((200, 200), True)})


def test_an_alpha_of_several_numbers_is_named():
    with pytest.raises(LoRA2Error, match=r"'lora_unet_a\.alpha' has shape 2 instead"):
        components(state_of(loha()) | {"lora_unet_a.alpha": torch.ones(2)})


def test_two_kinds_on_one_layer_are_refused():
    both = state_of(loha()) | state_of(drawn(W1["whole"] | W2["whole"]))
    with pytest.raises(LoRA2Error, match="two adapters of different kinds"):
        stored_components(seen(both))
    plain = {"lora_unet_a.lora_down.weight": torch.ones(2, 20)}
    with pytest.raises(LoRA2Error, match="two adapters of different kinds"):
        stored_components(seen(state_of(loha()) | plain))


def test_kinds_mix_from_layer_to_layer():
    state = state_of(loha(), 1, "a") | state_of(drawn(W1["whole"] | W2["core"]), 1, "b")
    state |= {"c.lora_down.weight": torch.ones(2, 3), "c.lora_up.weight": torch.ones(4, 2)}
    assert [s.kind for s in stored_components(seen(state))] == ["LoHa", "LoKr", ""]
    assert set(components(state)) == {"a", "b", "c"}
