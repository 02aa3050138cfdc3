"""A loaded SDXL or KOALA model in training: its weights on loan, and its data as examples."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import comfy.model_base
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...lora2_core.diffusion.data import Example
from ...lora2_core.errors import LoRA2Error
from .attention import with_gradient
from .given import pairs_of, samples_of
from .loan import Loan, blocks_of, in_full
from .schedule import schedule_of


class HostDenoiser:
    """The UNet of a loaded MODEL; meets lora2_core's Denoiser protocol. loan: of its weights."""

    def __init__(self, model: comfy.model_base.BaseModel, device: torch.device, loan: Loan):
        self.loan = loan
        self.network = model.diffusion_model
        self.blocks = blocks_of(self.network)
        self.device = device
        schedule = schedule_of(model.model_sampling)
        self.predicts_v = schedule.predicts_v
        self.dtype: torch.dtype = model.get_dtype()
        if model.manual_cast_dtype is not None:
            self.dtype = model.manual_cast_dtype
        self._sigmas, self._times = schedule.sigmas.to(device), schedule.times.to(device)
        self.timesteps = len(self._sigmas)

    def corrupt(self, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 + σ ε and ε, or v = (ε − σ x_0)/√(1+σ²) for v-prediction."""
        sigma = self._sigmas[t].view(-1, 1, 1, 1)
        noisy = latents + sigma * noise
        if self.predicts_v:
            return noisy, (noise - sigma * latents) / (1 + sigma**2).sqrt()
        return noisy, noise

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """The UNet's raw output; inputs are scaled as the host scales them at sampling."""
        sigma = self._sigmas[t].view(-1, 1, 1, 1)
        scaled = (noisy / (sigma**2 + 1) ** 0.5).to(self.dtype)
        return self.network(
            scaled,
            self._times[t],
            context=conditioning["c_crossattn"].to(self.dtype),
            y=conditioning["y"].to(self.dtype),
            transformer_options={"optimized_attention_override": with_gradient},
        )

    def snr(self, t: Tensor) -> Tensor:
        """1/σ²: corrupt adds σ ε to x_0."""
        return self._sigmas[t].float() ** -2

    def module_name(self, name: str) -> str:
        """The host's modules already carry the single-file names."""
        return name


def describe(patcher) -> str:
    """Class and prediction type of a MODEL, for messages."""
    model = patcher.model
    return f"{type(model).__name__} ({model.model_type.name})"


def check_trainable(patcher) -> None:
    """Raises LoRA2Error, naming the model, unless it is an SDXL-family UNet in a sampling that can
    be trained.
    """
    if type(patcher.model) is not comfy.model_base.SDXL:
        raise LoRA2Error(f"{describe(patcher)} cannot be trained; load an SDXL or KOALA checkpoint")
    try:
        schedule_of(patcher.get_model_object("model_sampling"))
    except LoRA2Error as error:
        raise LoRA2Error(f"{describe(patcher)} {error}") from None


def latent_channels(patcher) -> int:
    """Channels of the latents that the model takes."""
    return patcher.model.latent_format.latent_channels


def examples(
    patcher,
    latents: Sequence[dict],
    conditioning: Sequence,
    what: str,
    empty: Sequence | None = None,
) -> list[Example]:
    """The host's LATENT and CONDITIONING lists as examples, one an image, on the CPU.

    latents: dicts with samples [b, c, h, w], any mix of sizes. conditioning: CONDITIONING lists;
    one for all images, or one an image. empty: one CONDITIONING of an empty prompt, or None. Size
    and crop conditioning comes from the host itself, as at sampling. Raises LoRA2Error if the
    counts differ.
    """
    images = [image for latent in latents for image in samples_of(latent, what).split(1)]
    pairs = [pair for cond in conditioning for pair in pairs_of(cond)]
    if len(pairs) == 1:
        pairs = pairs * len(images)
    if len(pairs) != len(images):
        raise LoRA2Error(
            f"there are {len(images)} {what} but {len(pairs)} conditionings; "
            "give one conditioning for all images, or one for each"
        )
    found = [_example(patcher.model, *both) for both in zip(images, pairs, strict=True)]
    if empty is None:
        return found
    empty = pairs_of(empty)
    if len(empty) != 1:
        raise LoRA2Error(f"empty holds {len(empty)} conditionings; connect one empty prompt")
    blanks = (_example(patcher.model, image, empty[0]) for image in images)  # of the image's size
    return [replace(a, empty=b.conditioning) for a, b in zip(found, blanks, strict=True)]


def _example(model, image: Tensor, pair) -> Example:
    if "control" in pair[1]:
        raise LoRA2Error("the conditioning holds a ControlNet; train with the plain caption")
    latent = image.detach().cpu().float().clone()
    if latent.ndim == 4 and latent.shape[1] == model.latent_format.latent_channels:
        latent = model.process_latent_in(latent)
    conds = comfy.samplers.encode_model_conds(
        model.extra_conds,
        comfy.sampler_helpers.convert_cond([pair]),
        latent,
        torch.device("cpu"),
        "positive",
    )[0]["model_conds"]
    missing = {"c_crossattn", "y"} - set(conds)
    if missing:
        raise LoRA2Error(f"the conditioning lacks {missing}; encode the caption with this CLIP")
    return Example(
        latent, {name: conds[name].cond.cpu().float().clone() for name in ("c_crossattn", "y")}
    )


@contextmanager
def trainable(patcher, dtype: str) -> Iterator[HostDenoiser]:
    """The model on its device with weights that autograd accepts, without a second copy.

    Weights loaded by a node are inference tensors. Within the block each is replaced by a normal
    tensor, over the same memory unless it waits in main memory; afterwards the originals are back,
    whatever happened.
    """
    with torch.inference_mode(False), torch.enable_grad():
        patcher = in_full(patcher)
        with Loan(patcher, dtype) as loan:
            yield HostDenoiser(patcher.model, patcher.load_device, loan)
        comfy.model_management.soft_empty_cache()
