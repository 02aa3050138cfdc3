"""Samplings that nodes give to a model: the network is told what they mean, or they are refused."""

import pytest
from host import checkpoints, graphs
from host.comfy_host import Graph, NodeFailed


def sampled(graph, model, node, **settings):
    return graph.node(node, model=model, **settings)[0]


def told(host, node=None, dtype="fp32", **settings):
    """(levels, predicts v), and of the first, a middle and the last level: time in training and in
    sampling, how far the inputs and the restored picture are apart, whether all is finite.
    """
    graph = Graph()
    model = checkpoints.load(host, graph, "small_koala").model
    if node is not None:
        model = sampled(graph, model, node, **settings)
    shown = graph.node("ToldTimes", model=model, dtype=dtype)
    head, *lines = host.run(graph).outputs[shown.id]["text"]
    levels, v = head.split()
    return (int(levels), v == "True"), [
        (*map(float, line.split()[:4]), line.endswith("True")) for line in lines
    ]


DISCRETE = "ModelSamplingDiscrete"


@pytest.mark.parametrize(
    ("node", "settings", "levels", "v", "times"),
    [
        (None, {}, 1000, False, [0, 500, 999]),
        (DISCRETE, {"sampling": "eps", "zsnr": False}, 1000, False, [0, 500, 999]),
        (DISCRETE, {"sampling": "v_prediction", "zsnr": False}, 1000, True, [0, 500, 999]),
        (DISCRETE, {"sampling": "v_prediction", "zsnr": True}, 1000, True, [0, 500, 999]),
        (DISCRETE, {"sampling": "lcm", "zsnr": False}, 50, False, [19, 519, 999]),
    ],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_training_tells_the_network_what_sampling_tells_it(
    host, node, settings, levels, v, times, dtype
):
    kind, found = told(host, node, dtype, **settings)
    assert kind == (levels, v)
    assert [time for time, *_ in found] == times
    for time, in_sampling, inputs, restored, finite in found:
        assert time == in_sampling and finite
        assert inputs < 2e-2  # in half precision the last bit
        # at the last level of zero SNR x_0 is 1/4500 of what it is told from
        assert restored < (5e-3 if settings.get("zsnr") else 1e-3)


@pytest.mark.parametrize(
    ("node", "settings", "named"),
    [
        (DISCRETE, {"sampling": "x0", "zsnr": False}, "predicts X0"),
        (DISCRETE, {"sampling": "img_to_img", "zsnr": False}, "predicts IMG_TO_IMG"),
        ("ModelSamplingStableCascade", {"shift": 2.0}, "StableCascade.*from 0.* to 0.99"),
        ("ModelSamplingSD3", {"shift": 3.0}, "ModelSamplingDiscreteFlow"),
        ("ModelSamplingFlux", {"max_shift": 1.15, "base_shift": 0.5, "width": 64, "height": 64},
         "ModelSamplingFlux"),
        ("ModelSamplingContinuousEDM", {"sampling": "eps", "sigma_max": 120.0, "sigma_min": 0.002},
         "ModelSamplingContinuousEDM"),
        ("ModelSamplingContinuousV", {"sampling": "v_prediction", "sigma_max": 500.0,
                                      "sigma_min": 0.03}, "ModelSamplingContinuousV"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_by_the_part_that_does_not_fit(
    host, node, settings, named
):
    graph, train = graphs.training(host, steps=1)
    inputs = graph[train.id]["inputs"]
    inputs["model"] = sampled(graph, inputs["model"], node, **settings)
    graphs.save(graph, train, "never")
    with pytest.raises(NodeFailed, match=rf"SDXL \(EPS\) .*{named}"):
        host.run(graph)


def test_a_model_trains_in_the_sampling_of_an_lcm(host):
    graph, train = graphs.training(host, steps=2)
    inputs = graph[train.id]["inputs"]
    inputs["model"] = sampled(graph, inputs["model"], DISCRETE, sampling="lcm", zsnr=False)
    saved = graphs.save(graph, train, "lcm")
    state = graphs.tensors(host, host.run(graph), saved)
    assert all(up.any() for key, up in state.items() if "lora_up" in key)
