"""A convolution that is flattened and a matrix that is a 1×1 convolution are the layer they are."""

from math import prod

import pytest
import torch
from peers import family, layers

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import LoraState, components
from lora2_core.files.layer_shapes import layer_shape, shared_shape
from lora2_core.files.module_names import kohya_name
from lora2_core.rank_tools import Cut, Ingredient, compress, expand, merge, open_adapter
from lora2_core.ranks import rank_map
from lora2_core.ranks.rank_report import report

SDXL_ALONE = {"lora_unet_input_blocks_8_1_transformer_blocks_9_attn1_to_q": (1280, 1280)}
SD1_ALONE = {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": (320, 768)}


def flattened(shape):
    return shape[0], prod(shape[1:])


def as_convolution(shape):
    return (*shape, 1, 1) if len(shape) == 2 else shape


@pytest.mark.parametrize("base", ["SDXL", "KOALA", "Stable Diffusion 1"])
@pytest.mark.parametrize("written", [flattened, as_convolution, tuple])
def test_every_layer_of_a_real_unet_gets_its_own_shape(base, written):
    unet = family(base)
    names = DiffusersUNet(unet)
    for name, shape in layers(unet).items():
        found = layer_shape(kohya_name(names.module_name(name)), written(shape), {base})
        assert found == shape, name


def test_what_nothing_tells_stays():
    for shape in ((8, 72), (8, 8, 3, 3), (8, 8, 1, 1)):
        assert layer_shape("lora_unet_blocks_0_conv", shape, ()) == shape
    for shape in ((640, 640), (640, 640, 1, 1)):
        for families in ((), {"SDXL", "Stable Diffusion 1"}):
            assert layer_shape("lora_unet_input_blocks_4_1_proj_in", shape, families) == shape


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ([(8, 72), (8, 8, 3, 3)], (8, 8, 3, 3)),
        ([(8, 8, 3, 3), (8, 72), (8, 72, 1, 1)], (8, 8, 3, 3)),
        ([(8, 72), (8, 72, 1, 1)], (8, 72, 1, 1)),
        ([(8, 72), (8, 72)], (8, 72)),
        ([(8, 72), (8, 71)], None),
        ([(8, 144), (8, 16, 3, 3), (8, 9, 4, 4)], None),
        ([(9, 72), (8, 8, 3, 3)], None),
    ],
)
def test_the_shape_that_adapters_share(shapes, found):
    assert shared_shape(shapes) == found
    assert shared_shape(reversed(shapes)) == found


def adapter(shapes, seed=0, rank=3):
    draw = torch.Generator().manual_seed(seed)
    state = LoraState()
    for name, (out, *rest) in shapes.items():
        ones = [1] * (len(rest) - 1)
        state[f"{name}.lora_down.weight"] = torch.randn(rank, *rest, generator=draw)
        state[f"{name}.lora_up.weight"] = torch.randn(out, rank, *ones, generator=draw)
        state[f"{name}.alpha"] = torch.tensor(float(rank))
    return state


PROJ = "lora_unet_input_blocks_4_1_proj_in"
CONV = "lora_unet_input_blocks_4_0_in_layers_2"
OTHER = "lora_unet_blocks_0_patch"  # of a model that nothing is known of
CASES = {
    "SDXL's projection is a matrix": (SDXL_ALONE, PROJ, (640, 640), (640, 640, 1, 1), (640, 640)),
    "SD 1's is a convolution": (
        SD1_ALONE, PROJ, (640, 640), (640, 640, 1, 1), (640, 640, 1, 1),
    ),
    "nobody knows whose": ({}, PROJ, (640, 640), (640, 640, 1, 1), (640, 640, 1, 1)),
    "a flattened convolution": (
        SDXL_ALONE, CONV, (640, 320 * 9), (640, 320, 3, 3), (640, 320, 3, 3),
    ),
    "of another model": ({}, OTHER, (64, 16 * 4), (64, 16, 2, 2), (64, 16, 2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("base", "name", "flat", "square", "written"), CASES.values(), ids=CASES.keys()
)
def test_both_forms_merge_to_the_sum_in_the_layers_own(base, name, flat, square, written, turned):
    states = [adapter(base | {name: flat}, 1), adapter(base | {name: square}, 2)]
    if turned:
        states.reverse()
    expected = sum(
        weight * components(one)[name].delta().flatten(1)
        for weight, one in zip((0.5, 2.0), states, strict=True)
    )
    chosen = [
        Ingredient(open_adapter(one), weight)
        for weight, one in zip((0.5, 2.0), states, strict=True)
    ]
    for overlap in (False, True):
        found = components(merge(chosen, overlap=overlap).state)[name].delta()
        assert found.shape == written
        assert torch.allclose(found.flatten(1), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "flat", "written"),
    [(PROJ, (640, 640, 1, 1), (640, 640)), (CONV, (640, 320 * 9), (640, 320, 3, 3))],
)
def test_one_adapter_is_written_in_the_layers_form(name, flat, written):
    state = adapter(SDXL_ALONE | {name: flat})
    expected = components(state)[name].delta().flatten(1)
    opened = open_adapter(state)
    for made in (compress(opened, Cut(rank=3)).state, dict(expand(opened, 5))):
        found = components(made)[name].delta()
        assert found.shape == written
        assert torch.allclose(found.flatten(1), expected, atol=1e-4)


def test_their_ranks_are_averaged():
    reports = [
        report(adapter({PROJ: s}, rank=r)) for s, r in (((640, 640), 2), ((640, 640, 1, 1), 6))
    ]
    assert rank_map.of_report(rank_map.averaged(reports)) == {PROJ: 4}


@pytest.mark.parametrize("other", [(640, 641), (320, 1280), (640, 160, 2, 2)])
def test_another_size_is_refused(other):
    square = (640, 640 // 4, 4, 1) if len(other) == 4 else (640, 640)
    states = [adapter({OTHER: square}), adapter({OTHER: other})]
    with pytest.raises(
        LoRA2Error, match=f"{OTHER} changes a layer of shape 640×.*merge adapters of"
    ):
        merge([Ingredient(open_adapter(one)) for one in states])
