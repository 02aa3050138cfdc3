"""The bundled model in the host's own classes: what its checkpoint loader would give.

The host tells checkpoints apart by their shapes and does not know this one's.
"""

import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import torch
from comfy.sd1_clip import (
    ClipTokenWeightEncoder,
    escape_important,
    token_weights,
    unescape_important,
)
from torch import Tensor, nn

from ...lora2_core.demo_model import bundled
from ...lora2_core.demo_model.shapes import HEAD_WIDTH
from ...lora2_core.demo_model.state import AUTOENCODER, TEXT, UNET, read_state
from ...lora2_core.demo_model.text import WORDS, TextEncoder, Tokenizer

Weights = dict[str, Tensor]


def load():
    """(MODEL, CLIP, VAE), all in fp32: agreement with headless use is worth more than megabytes.

    Raises LoRA2Error if the weights are missing or damaged.
    """
    state, tokenizer = read_state(bundled.weights())
    return _model(state), _clip(_part(state, TEXT), tokenizer), _vae(_part(state, AUTOENCODER))


def _part(state: Weights, prefix: str) -> Weights:
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


class _Config(comfy.supported_models.SDXL):
    """SDXL's, for heads of another width; all other sizes are told from the weights."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": HEAD_WIDTH}  # noqa: RUF012


def _model(state: Weights) -> comfy.model_patcher.ModelPatcher:
    config = _Config(comfy.model_detection.detect_unet_config(state, UNET))
    config.set_inference_dtype(torch.float32, None)
    offload = comfy.model_management.unet_offload_device()
    model = config.get_model(state, UNET, device=offload)
    model.load_model_weights(dict(state), UNET)  # takes them out of the dict
    # never the patcher that streams weights: they are few
    return comfy.model_patcher.ModelPatcher(
        model, load_device=comfy.model_management.get_torch_device(), offload_device=offload
    )


def _vae(weights: Weights) -> comfy.sd.VAE:
    # the file has a scale alone, and the host complains of what is missing
    return comfy.sd.VAE(weights | {"vae_shift": torch.zeros(())}, dtype=torch.float32)


def _clip(weights: Weights, tokenizer: Tokenizer) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(
        lambda **_: _Tokenizer(tokenizer), lambda **_: _TextModel(tokenizer)
    )
    cpu = torch.device("cpu")  # a millisecond there, and nothing for the host to offload
    return comfy.sd.CLIP(
        target,
        state_dict={f"text.{key}": value for key, value in weights.items()},
        model_options={"load_device": cpu, "offload_device": cpu},
    )


class _Tokenizer:
    """The closed vocabulary, with the host's weights in parentheses."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_) -> dict:
        """{"g": [tokens], "l": [tokens]}, as SDXL's: what encodes for SDXL asks for both."""
        parts = token_weights(escape_important(text), 1.0)
        words = [
            (number, weight)
            for part, weight in parts
            for number in self._tokenizer.word_ids(unescape_important(part))
        ]
        ids = self._tokenizer.framed([number for number, _ in words])
        weights = [1.0, *(weight for _, weight in words[:WORDS])]
        weights += [1.0] * (len(ids) - len(weights))
        tokens = list(zip(ids, weights, strict=True))
        if return_word_ids:  # 0 for what is no word
            last = min(len(words), WORDS)
            tokens = [(*token, i if i <= last else 0) for i, token in enumerate(tokens)]
        return {"g": [tokens], "l": [list(tokens)]}

    def state_dict(self) -> dict:
        """Nothing that a checkpoint would hold."""
        return {}


class _TextModel(nn.Module, ClipTokenWeightEncoder):
    """The text encoder, as comfy.sd.CLIP drives one."""

    dtypes = frozenset({torch.float32})
    disable_offload = True  # streaming needs the host's own layers

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.text = TextEncoder(len(tokenizer)).requires_grad_(False).eval()
        start, end, *_ = tokenizer.encode("")
        self.special_tokens = {"start": start, "end": end, "pad": end}

    def encode(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids [b, tokens] to (context [b, tokens, 128], pooled [b, 128])."""
        return self.text(torch.tensor(ids))

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, Tensor]:
        """(context [1, tokens, 128], pooled [1, 128]) of what tokenize_with_weights gave."""
        return super().encode_token_weights(tokens["g"])

    def set_clip_options(self, options: dict) -> None:
        """Layers to skip and the like: there are none."""

    def reset_clip_options(self) -> None:
        """See set_clip_options."""
