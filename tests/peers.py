"""Other libraries' loaders, as tests compare with them."""

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin as SdxlLora
from peft.tuners.lora import LoraLayer


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
