"""Other libraries' loaders, as tests compare with them."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin as SdxlLora
from peft.tuners.lora import LoraLayer
from unet_shapes import KOALA_700M, SDXL, unet_shapes

from lora2_core.backbones import single_file


def load_with_diffusers(unet, path) -> dict[str, torch.Tensor]:
    """diffusers module name → the ΔW that PEFT's layer holds."""
    loaded = SdxlLora.lora_state_dict(
        str(path.parent),
        weight_name=path.name,
        unet_config=unet.config,
        return_lora_metadata=True,
        local_files_only=True,
    )
    tensors, alphas, metadata = loaded
    SdxlLora.load_lora_into_unet(tensors, alphas, unet, adapter_name="peer", metadata=metadata)
    return deltas(unet, "peer")


def deltas(model, adapter: str) -> dict[str, torch.Tensor]:
    return {
        name: layer.get_delta_weight(adapter).detach()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def small_unet() -> UNet2DConditionModel:
    """SDXL's blocks at a tenth of the width and with shorter transformers."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=2,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        cross_attention_dim=24,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )


def two_level_unet(**more) -> UNet2DConditionModel:
    """Two levels of which one has cross-attention, for latents of 8 × 8."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=24,
        norm_num_groups=8,
        use_linear_projection=True,
        **more,
    )


def on_meta(**config):
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def family(name):
    """A real UNet, on the meta device."""
    if name == "Stable Diffusion 1":
        return on_meta(cross_attention_dim=768)  # diffusers' defaults are its shape
    shapes = unet_shapes({"SDXL": SDXL, "KOALA": KOALA_700M}[name])
    return on_meta(
        **single_file.unet_config({single_file.UNET + k: shape for k, shape in shapes.items()})
    )


def layers(unet):
    """Every linear layer and convolution → shape of its weight."""
    kinds = torch.nn.Linear | torch.nn.Conv2d
    return {n: tuple(m.weight.shape) for n, m in unet.named_modules() if isinstance(m, kinds)}
