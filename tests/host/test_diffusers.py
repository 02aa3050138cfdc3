"""A file that the host trained on SDXL's shape, read by diffusers' own loader."""

import pytest
from diffusers import UNet2DConditionModel
from host import graphs
from peers import error, load_with_diffusers

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.files.adapter_file import components, read
from lora2_core.files.module_names import kohya_name


def sdxl_at_320_channels() -> UNet2DConditionModel:
    """The diffusers twin of the checkpoint small_sdxl."""
    return UNet2DConditionModel(
        block_out_channels=(320, 320, 320),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 5, 5),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-6), ("fp16", 5e-4)])
def test_diffusers_reads_what_the_host_trained(host, precision, bound):
    graph, train = graphs.training(host, "small_sdxl", steps=4)
    exact = graphs.save(graph, train, f"sdxl_{precision}", "fp32")
    save = graphs.save(graph, train, f"sdxl_{precision}", precision)
    run = host.run(graph)
    trained = components(read(graphs.saved_file(host, run, exact)))
    assert len(trained) == 560
    assert len({factors.rank for factors in trained.values()}) >= 5
    unet = sdxl_at_320_channels()
    names = DiffusersUNet(unet)
    found = load_with_diffusers(unet, graphs.saved_file(host, run, save))
    assert len(found) == 560
    for name, delta in found.items():
        expected = trained[kohya_name(names.module_name(name))].delta()
        assert expected.norm() > 0
        assert error(delta, expected) <= bound
