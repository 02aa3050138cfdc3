"""Every kind of adapter that the host applies, through LoRA² Load beside the host's own loader."""

import pytest
import torch
from host import checkpoints, graphs
from host.comfy_host import Graph
from host.test_rank_tools import EVERYTHING, loaded
from safetensors.torch import load_file, save_file
from unet_shapes import KOALA_SMALL, unet_shapes

from lora2_core.files.adapter_file import components

SHAPES = {key.removesuffix(".weight"): shape for key, shape in unet_shapes(KOALA_SMALL).items()
          if key.endswith(".weight")}  # fmt: skip
BLOCK = "input_blocks.3.1.transformer_blocks.0."
LINEAR, CONV, NORM = f"{BLOCK}attn1.to_q", "input_blocks.1.0.in_layers.2", f"{BLOCK}norm1"


def drawn(module, shapes, size=0.1):
    draw = torch.Generator().manual_seed(len(module))
    stem = "lora_unet_" + module.replace(".", "_")
    return {
        f"{stem}.{ending}": size * torch.randn(shape, generator=draw)
        for ending, shape in shapes.items()
    }


def plain():
    out, into = SHAPES[LINEAR]
    return drawn(LINEAR, {"lora_down.weight": (3, into), "lora_up.weight": (out, 3)}, 0.3)


def host_trained():
    """As the host's Train LoRA writes it: every layer, flat factors, norms and biases."""
    found = {}
    for module, (out, *into) in SHAPES.items():
        stem = f"diffusion_model.{module}"
        if not into:
            own = drawn(module, {"diff": (out,)}, 0.05)
        else:
            width = torch.Size(into).numel()
            own = drawn(module, {"lora_down.weight": (2, width), "lora_up.weight": (out, 2)}, 0.02)
            found[f"{stem}.alpha"] = torch.tensor(1.0)
        own |= drawn(module, {"diff_b": (out,)}, 0.05) if has_bias(module) else {}
        found |= {f"{stem}.{key.split('.', 1)[1]}": tensor for key, tensor in own.items()}
    return found


def has_bias(module):
    return f"{module}.bias" in unet_shapes(KOALA_SMALL)


def loha():
    out, into = SHAPES[LINEAR]
    return drawn(LINEAR, {"hada_w1_a": (out, 2), "hada_w1_b": (2, into), "hada_w2_a": (out, 2),
                          "hada_w2_b": (2, into), "alpha": ()}, 0.5)  # fmt: skip


def loha_of_a_convolution():
    out, into, *kernel = SHAPES[CONV]
    shapes = {}
    for n in (1, 2):
        shapes |= {f"hada_w{n}_a": (2, out), f"hada_w{n}_b": (2, into)}
        shapes[f"hada_t{n}"] = 2, 2, *kernel
    return drawn(CONV, shapes, 0.5)


def lokr():
    out, into = SHAPES[LINEAR]
    return drawn(LINEAR, {"lokr_w1": (4, 8), "lokr_w2_a": (out // 4, 2),
                          "lokr_w2_b": (2, into // 8), "alpha": ()}, 0.5)  # fmt: skip


def lokr_of_a_convolution():
    out, into, *kernel = SHAPES[CONV]
    return drawn(CONV, {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "alpha": (),
                        "lokr_w2": (out // 4, into // 4, *kernel)}, 0.5)  # fmt: skip


def whole_lokr():
    out, into = SHAPES[LINEAR]
    return drawn(LINEAR, {"lokr_w1": (2, 2), "lokr_w2": (out // 2, into // 2), "alpha": ()}, 0.2)


def tucker():
    out, into, *kernel = SHAPES[CONV]
    return drawn(CONV, {"lora_down.weight": (3, into, 1, 1), "lora_mid.weight": (3, 3, *kernel),
                        "lora_up.weight": (out, 3, 1, 1)}, 0.5)  # fmt: skip


def dora(axis):
    out, into = SHAPES[LINEAR]
    stem = "lora_unet_" + LINEAR.replace(".", "_")
    return plain() | {f"{stem}.dora_scale": 3 * torch.rand((out, 1) if axis == 0 else (1, into))}


def dora_of_loha():
    return loha() | {key: t for key, t in dora(0).items() if key.endswith("dora_scale")}


def norms():
    return plain() | drawn(NORM, {"w_norm": SHAPES[NORM], "b_norm": SHAPES[NORM]})


def stranger():
    return plain() | {"logit_scale": torch.ones(1), "bundle_emb.dog.clip_l": torch.ones(1, 768)}


KINDS = {
    "host trained": host_trained, "LoHa": loha, "LoHa convolution": loha_of_a_convolution,
    "LoKr": lokr, "LoKr convolution": lokr_of_a_convolution, "whole LoKr": whole_lokr,
    "Tucker": tucker, "DoRA": lambda: dora(0), "DoRA by input": lambda: dora(1),
    "DoRA of LoHa": dora_of_loha, "norms": norms, "stranger": stranger,
}  # fmt: skip


def stored(host, name, tensors):
    path = host.base / "models" / "loras" / f"kind {name}.safetensors"
    save_file(tensors, path)
    return path.name


def difference(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_load_applies_what_the_host_applies_whole_and_cut_to_all_of_it(host, kind):
    name = stored(host, kind, KINDS[kind]())
    nothing, expected = graphs.sample(host), graphs.sample(host, graphs.with_theirs(name))
    assert difference(expected, nothing) > 0.01
    assert torch.equal(graphs.sample(host, graphs.with_ours(name)), expected)
    settings = EVERYTHING | {"keep": "energy", "energy": 1.0}
    cut = graphs.sample(host, graphs.with_ours(name, **settings))
    assert difference(cut, expected) < 2e-3


def test_a_lokr_in_tucker_form_is_applied_though_the_host_gives_it_up(host):
    """It logs that torch.kron cannot view the core's product, and leaves the layer as it was."""
    out, into, *kernel = SHAPES[CONV]
    parts = drawn(CONV, {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (2, out // 4),
                         "lokr_w2_b": (2, into // 4), "lokr_t2": (2, 2, *kernel)}, 0.5)  # fmt: skip
    found = graphs.sample(host, graphs.with_ours(stored(host, "core", parts)))
    [(stem, factors)] = components(parts).items()
    plain_name = stored(host, "core as factors", {
        f"{stem}.lora_down.weight": factors.down, f"{stem}.lora_up.weight": factors.up,
    })  # fmt: skip
    expected = graphs.sample(host, graphs.with_theirs(plain_name))
    assert difference(expected, graphs.sample(host)) > 0.01
    assert difference(found, expected) < 1e-4


def test_load_applies_what_it_cannot_cut_and_refuses_to_cut_it(host):
    out, _ = SHAPES[LINEAR]
    tensors = drawn(LINEAR, {"oft_blocks": (out // 32, 32, 32), "alpha": ()}, 3.0)
    name = stored(host, "OFT", tensors)
    expected = graphs.sample(host, graphs.with_theirs(name))
    assert not torch.equal(expected, graphs.sample(host))
    assert torch.equal(graphs.sample(host, graphs.with_ours(name)), expected)
    graph = Graph()
    node = graph.node("LoRA2Compress", lora_name=name, **(EVERYTHING | {"keep": "rank"}))
    graphs.save(graph, node, "never")
    run = host.run(graph, check=False)
    assert "1 OFT or BOFT" in run.error["exception_message"]


def test_load_says_what_lies_beside_and_what_is_left_out(host):
    assert "beside: 1 bias, 1 norm" in loaded(host, stored(host, "said", norms()))
    text = loaded(host, stored(host, "said of strangers", stranger()))
    assert "1 tensor not understood" in text and "1 part of an embedding" in text


def test_compress_then_save_then_load_keeps_norms_and_biases(host):
    source = host_trained()
    name = stored(host, "to compress", source)
    graph = Graph()
    node = graph.node("LoRA2Compress", lora_name=name, **(EVERYTHING | {"keep": "rank", "rank": 2}))
    saved = graphs.save(graph, node, "kinds/small", precision="fp32")
    run = host.run(graph)
    path = graphs.saved_file(host, run, saved)
    found = load_file(path)
    for key, tensor in source.items():
        if key.endswith((".diff", ".diff_b")):
            layer, ending = key.rsplit(".", 1)
            flat = layer.replace("diffusion_model", "lora_unet").replace(".", "_")
            assert torch.equal(found[f"{flat}.{ending}"], tensor)
    assert len(components(found)) == sum(len(shape) > 1 for shape in SHAPES.values())
    assert "beside: " in run.outputs[node.id]["text"][0]
    expected = graphs.sample(host, graphs.with_theirs(name))
    theirs = graphs.with_theirs(str(path.relative_to(host.base / "models" / "loras")))
    assert difference(graphs.sample(host, theirs), expected) < 2e-3


@pytest.mark.parametrize("algorithm", ["LoRA", "LoHa", "LoKr"])
def test_the_hosts_own_training_goes_through_every_tool(host, algorithm):
    """What Train LoRA leaves after two steps, through merge and compress with nothing lost."""
    graph = Graph()
    checkpoint = checkpoints.load(host, graph, "small_koala")
    data = graphs.dataset(host, graph, checkpoint.clip, checkpoint.vae)
    trained = graph.node(
        "TrainLoraNode", model=checkpoint.model, latents=data[0], positive=data[1], batch_size=1,
        grad_accumulation_steps=1, steps=2, learning_rate=1e-2, rank=2, optimizer="AdamW",
        loss_function="MSE", seed=0, training_dtype="fp32", lora_dtype="fp32",
        algorithm=algorithm, gradient_checkpointing=True, existing_lora="[None]",
        checkpoint_depth=1, offloading=False, bucket_mode=False, bypass_mode=False,
        quantized_backward=False,
    )  # fmt: skip
    # older hosts put the patched model out before it
    lora = trained[host.object_info("TrainLoraNode")["output"].index("LORA_MODEL")]
    compressed = graph.node("LoRA2Compress", lora_name="(connected lora)", lora=lora,
                            **(EVERYTHING | {"keep": "rank", "rank": 4}))  # fmt: skip
    own = graph.node("LoRA2Save", lora=lora, prefix=f"kinds/{algorithm} own", precision="fp32")
    small = graphs.save(graph, compressed, f"kinds/{algorithm} small")
    run = host.run(graph)
    assert "norms" in run.outputs[compressed.id]["text"][0]
    folder = host.base / "models" / "loras"
    names = [str(graphs.saved_file(host, run, one).relative_to(folder)) for one in (own, small)]
    whole, cut = (graphs.sample(host, graphs.with_theirs(name)) for name in names)
    assert difference(whole, graphs.sample(host)) > 0.01
    assert torch.equal(graphs.sample(host, graphs.with_ours(names[0])), whole)
    if algorithm != "LoKr":  # a whole second matrix has a rank of its own
        assert difference(cut, whole) < 2e-3
