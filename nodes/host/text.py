"""The host's text encoders in training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ...lora2_core.diffusion.data import Example
from ...lora2_core.diffusion.text_encoders import TOKENS, WithText
from ...lora2_core.errors import LoRA2Error
from ...lora2_core.room.trace import has_shape_alone
from .attention import keep_gradient
from .loan import in_full
from .model import HostDenoiser

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


class HostWithText(WithText):
    """The host's UNet and text encoders; loan: of the weights of all."""

    def __init__(self, denoiser: HostDenoiser, clip, patcher):
        self.loan = denoiser.loan
        self._clip = clip
        self._patcher = patcher
        model = patcher.model
        encoders = {
            f"te{number}": getattr(model, part).transformer
            for number, part in enumerate(_PARTS.values(), 1)
        }
        super().__init__(denoiser, encoders, self._conditioning)

    def spoken(self, text: str, conditioning: list) -> list:
        """The CONDITIONING of one prompt, encoded anew by the encoders as they are now."""
        context, pooled, *_ = self._encoded(self._clip.tokenize(text))
        return [[context, more | {"pooled_output": pooled}] for _, more in conditioning]

    def _conditioning(self, told: Mapping[str, Tensor]) -> dict[str, Tensor]:
        y = told["y"]
        found = [
            self._encoded({part: _pairs(told[f"{TOKENS}_{part}"][index]) for part in _PARTS})
            for index in range(len(y))
        ]
        pooled = torch.cat([pooled for _, pooled, *_ in found]).to(y)
        return {
            "c_crossattn": torch.cat([context for context, *_ in found]).to(y.device),
            "y": torch.cat([pooled, y[:, _POOLED:]], 1),
        }

    def _encoded(self, tokens: Mapping[str, list]) -> tuple:
        """Context and pooled vector, in the steps of the host's own CLIP."""
        model = self._patcher.model
        model.reset_clip_options()
        if self._clip.layer_idx is not None:
            model.set_clip_options({"layer": self._clip.layer_idx})
        model.set_clip_options({"execution_device": self._patcher.load_device})
        return model.encode_token_weights(tokens)


@contextmanager
def text_trainable(denoiser: HostDenoiser, clip) -> Iterator[HostWithText]:
    """The denoiser with the text encoders beside it, loaded, on weights that autograd accepts."""
    patcher = in_full(clip.patcher)
    denoiser.loan.extend(patcher)
    with ExitStack() as stack:
        for part in _PARTS.values():
            encoder = getattr(patcher.model, part).transformer
            _keep_norms_inputs(encoder, stack)
            keep_gradient(encoder, stack)
        yield HostWithText(denoiser, clip, patcher)


def _pairs(tokens: Tensor) -> list[list[tuple[int, float]]]:
    if has_shape_alone(tokens):  # a step that is counted: one text is as good as another
        chunks, length, _ = tokens.shape
        return [[(0, 1.0)] * length] * chunks
    return [[(int(token), weight) for token, weight in chunk] for chunk in tokens.tolist()]


def _keep_norms_inputs(encoder: nn.Module, stack: ExitStack) -> None:
    """The host's layers add to their input in place, of which autograd needs the value before."""
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            hook = module.register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:]))
            stack.callback(hook.remove)
