"""The host's text encoders in training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import comfy.model_management
import torch
from torch import Tensor, nn

from ..lora2_core.data import Example
from ..lora2_core.errors import LoRA2Error
from ..lora2_core.text_encoders import TOKENS, WithText
from .host import HostDenoiser, borrowed_weights

_PARTS = {"l": "clip_l", "g": "clip_g"}  # of the tokens, and of the model
_POOLED = 1280  # of y; what follows are sizes


def with_captions(
    examples: Sequence[Example], clip, captions: Sequence[str], what: str
) -> list[Example]:
    """Examples that hold tokens in place of encoded text.

    captions: one for all images, or one an image. Raises LoRA2Error if the counts differ, or for a
    CLIP that is not SDXL's.
    """
    if not all(hasattr(clip.cond_stage_model, part) for part in _PARTS.values()):
        raise LoRA2Error(
            f"clip is a {type(clip.cond_stage_model).__name__}; connect that of the SDXL or KOALA "
            "checkpoint"
        )
    if len(captions) not in (1, len(examples)):
        raise LoRA2Error(
            f"there are {len(examples)} {what} but {len(captions)} texts; give one for all images, "
            "or one for each"
        )
    texts = list(captions) * (len(examples) if len(captions) == 1 else 1)
    return [
        Example(
            example.latent,
            _told(example.conditioning, clip, text),
            None if example.empty is None else _told(example.empty, clip, ""),
        )
        for example, text in zip(examples, texts, strict=True)
    ]


def _told(conditioning: Mapping[str, Tensor], clip, text: str) -> dict[str, Tensor]:
    return {"y": conditioning["y"], **_tokens(clip, text)}


def _tokens(clip, text: str) -> dict[str, Tensor]:
    """[1, chunks, 77, 2] of each encoder: a token's number and its weight."""
    found = {}
    for part, chunks in clip.tokenize(text).items():
        if any(not isinstance(token, int) for chunk in chunks for token, *_ in chunk):
            raise LoRA2Error(
                f"the text {text!r} has an embedding in it, which cannot be trained with; leave it "
                "out"
            )
        pairs = [[[float(token), float(weight)] for token, weight, *_ in chunk] for chunk in chunks]
        found[f"{TOKENS}_{part}"] = torch.tensor([pairs])
    return found


@contextmanager
def text_trainable(denoiser: HostDenoiser, clip) -> Iterator[WithText]:
    """The denoiser with the text encoders beside it, loaded, on weights that autograd accepts."""
    patcher = clip.patcher
    if getattr(patcher, "is_dynamic", lambda: False)():
        patcher = patcher.get_non_dynamic_delegate()
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    model = patcher.model
    encoders = {
        f"te{number}": getattr(model, part).transformer
        for number, part in enumerate(_PARTS.values(), 1)
    }

    def encode(conditioning: Mapping[str, Tensor]) -> dict[str, Tensor]:
        model.reset_clip_options()
        if clip.layer_idx is not None:
            model.set_clip_options({"layer": clip.layer_idx})
        model.set_clip_options({"execution_device": patcher.load_device})
        y = conditioning["y"]
        found = [
            model.encode_token_weights(
                {part: _pairs(conditioning[f"{TOKENS}_{part}"][index]) for part in _PARTS}
            )
            for index in range(len(y))
        ]
        pooled = torch.cat([pooled for _, pooled, *_ in found]).to(y)
        return {
            "c_crossattn": torch.cat([context for context, *_ in found]).to(y.device),
            "y": torch.cat([pooled, y[:, _POOLED:]], 1),
        }

    with ExitStack() as stack:
        stack.enter_context(borrowed_weights(model))
        for encoder in encoders.values():
            _keep_norms_inputs(encoder, stack)
        yield WithText(denoiser, encoders, encode)


def _pairs(tokens: Tensor) -> list[list[tuple[int, float]]]:
    return [[(int(token), weight) for token, weight in chunk] for chunk in tokens.tolist()]


def _keep_norms_inputs(encoder: nn.Module, stack: ExitStack) -> None:
    """The host's layers add to their input in place, of which autograd needs the value before."""
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            hook = module.register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:]))
            stack.callback(hook.remove)
