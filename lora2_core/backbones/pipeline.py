"""SDXL and KOALA without ComfyUI: a diffusers folder or a single-file checkpoint."""

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from diffusers.schedulers import EulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from ..diffusion.data import Example
from ..diffusion.denoiser import Denoiser
from ..diffusion.text_encoders import WithText
from ..errors import LoRA2Error
from ..files.header import read_header
from . import prediction, single_file
from .captions import Captions
from .diffusers_unet import BETA_END, BETA_START, TIMESTEPS, DiffusersUNet
from .drawing import Drawing
from .pictures import to_tensor

RESOLUTION = 1024  # px, the side of pictures that SDXL is made for
_PIPELINE = "StableDiffusionXLPipeline"


class PipelineBackbone:
    """A pipeline's UNet as a denoiser, and its encoders for pictures and captions.

    denoiser: meets denoiser.Denoiser; its UNet is in main memory, the encoders are on `device`.
    channels: of its latents. text_encoders: whether they are to be trained, too.
    """

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        device: torch.device,
        text_encoders: bool = False,
    ):
        config = pipeline.scheduler.config
        _check_schedule(config)
        if pipeline.vae.dtype != torch.float32:
            pipeline.vae.to(torch.float32)  # SDXL's overflows in fp16
        for part in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            part.to(device)
        self._pipeline = pipeline
        self.device = device
        self.channels: int = pipeline.unet.config.in_channels
        unet = DiffusersUNet(pipeline.unet, *prediction.check(config))
        self.denoiser: Denoiser = unet
        self._text = None
        if text_encoders:
            self._text = Captions(pipeline)
            self.denoiser = WithText(unet, self._text.encoders, self._text.encode)

    @torch.no_grad()
    def example(self, picture: Image.Image, caption: str) -> Example:
        """A square RGB picture and its caption, encoded; on the CPU in fp32."""
        vae = self._pipeline.vae
        latent = vae.encode(to_tensor(picture).to(vae.device)).latent_dist.mode()
        latent = latent * vae.config.scaling_factor
        return Example(latent.cpu(), self.conditioning(picture.size, caption))

    @torch.no_grad()
    def conditioning(self, size: tuple[int, int], caption: str) -> dict[str, Tensor]:
        """Of a picture of (width, height); on the CPU in fp32, tokens as they are."""
        width, height = size
        sizes = {"time_ids": torch.tensor([[height, width, 0, 0, height, width]]).float()}
        if self._text is not None:
            return self._text.tokens(caption) | sizes
        context, _, pooled, _ = self._pipeline.encode_prompt(
            caption,
            device=self._pipeline.vae.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        told = {"context": context.float().cpu(), "pooled": pooled.float().cpu()}
        return told | sizes

    @torch.no_grad()
    def painter(self, drawing: Drawing) -> Callable[[], list[Image.Image]]:
        """Draws with the UNet as it is at each call. Its prompts are encoded now, so that the text
        encoders may go, or at each call if they are trained, too; the VAE stays.
        """
        pipeline = self._pipeline

        def encoded() -> list[tuple]:
            return [
                pipeline.encode_prompt(
                    prompt,
                    device=pipeline.vae.device,
                    num_images_per_prompt=1,
                    do_classifier_free_guidance=drawing.guidance > 1,
                    negative_prompt=drawing.negative,
                )
                for prompt in drawing.prompts
            ]

        prompts = encoded() if self._text is None else None
        sampler = StableDiffusionXLPipeline(
            vae=pipeline.vae,
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            unet=pipeline.unet,
            scheduler=pipeline.scheduler,
            add_watermarker=False,
        )
        sampler.set_progress_bar_config(disable=True)

        def paint() -> list[Image.Image]:
            found = encoded() if prompts is None else prompts
            return [_sampled(sampler, prompt, drawing) for prompt in found]

        return paint

    def forget_encoders(self) -> None:
        """Makes room on the device, once everything is encoded: VAE and text encoders are freed, or
        go to main memory if they are to be trained; the VAE of a painter stays.
        """
        self.denoiser.network.to("cpu")
        del self._pipeline


@torch.no_grad()
def _sampled(sampler: StableDiffusionXLPipeline, encoded: tuple, drawing: Drawing) -> Image.Image:
    """encoded: what encode_prompt gave: context and pooled vector, each with its negative."""
    context, no_context, pooled, no_pooled = encoded
    latents = sampler(
        prompt_embeds=context,
        negative_prompt_embeds=no_context,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=no_pooled,
        width=drawing.side,
        height=drawing.side,
        num_inference_steps=drawing.steps,
        guidance_scale=drawing.guidance,
        generator=torch.Generator().manual_seed(drawing.seed),
        output_type="latent",
    ).images
    vae = sampler.vae  # always in fp32, whatever the UNet computes in
    decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
    return sampler.image_processor.postprocess(decoded, output_type="pil")[0]


def load_folder(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    text_encoders: bool = False,
    asked: prediction.Asked = prediction.AUTO,
) -> PipelineBackbone:
    """A diffusers folder. Raises LoRA2Error, naming the kind, if it is not of the SDXL family."""
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text())["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        raise LoRA2Error(
            f"{folder} is no diffusers folder: model_index.json is missing or broken; give the "
            "folder that holds it, or a .safetensors checkpoint"
        ) from error
    if kind != _PIPELINE:
        raise LoRA2Error(f"{folder} holds a {kind}, which cannot be trained; give SDXL or KOALA")
    try:
        with _one_word_for_dtype():
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                folder, torch_dtype=dtype, local_files_only=True
            )
    except (OSError, ValueError) as error:
        raise LoRA2Error(f"{folder} cannot be loaded: {error}") from error
    if pipeline.unet.config.in_channels != 4:
        raise LoRA2Error(
            f"{folder} holds a UNet of {pipeline.unet.config.in_channels} input channels, which "
            "cannot be trained; give SDXL or KOALA"
        )
    prediction.apply(asked, pipeline)
    return PipelineBackbone(pipeline, device, text_encoders)


def load_checkpoint(
    file: Path,
    tokenizer: Path | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    text_encoders: bool = False,
    asked: prediction.Asked = prediction.AUTO,
) -> PipelineBackbone:
    """A single-file checkpoint, which has every part but the tokenizer.

    tokenizer: a folder with vocab.json and merges.txt of CLIP. Raises LoRA2Error for a broken
    file, a model of another kind (named), or a folder without tokenizer.
    """
    shapes = {name: tuple(info.shape) for name, info in read_header(file).tensors.items()}
    marks = prediction.of_marks(shapes)
    config = single_file.unet_config(shapes)
    if tokenizer is None or not (tokenizer / "vocab.json").is_file():
        raise LoRA2Error(
            f"tokenizer is {tokenizer}; a single-file checkpoint needs a folder with CLIP's "
            "vocab.json and merges.txt: ComfyUI has one in comfy/sd1_tokenizer, a diffusers "
            "folder in tokenizer"
        )
    with tempfile.TemporaryDirectory() as folder, _one_word_for_dtype():
        _write_configs(Path(folder), shapes, tokenizer, marks)
        pipeline = StableDiffusionXLPipeline.from_single_file(
            str(file),
            config=folder,
            unet=single_file.read_unet(file, config, dtype),
            torch_dtype=dtype,
            local_files_only=True,
        )
    prediction.apply(asked, pipeline)
    return PipelineBackbone(pipeline, device, text_encoders)


@contextmanager
def _one_word_for_dtype() -> Iterator[None]:
    """Newer versions of diffusers warn of `torch_dtype`, which older ones alone understand."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
        yield


def _write_configs(folder: Path, shapes, tokenizer: Path, marks: dict) -> None:
    """What from_single_file asks for beside the weights: every part's configuration."""
    from transformers import CLIPTextConfig, CLIPTokenizer

    encoders = (
        ("text_encoder", single_file.CLIP_L, "encoder.layers"),
        ("text_encoder_2", single_file.CLIP_G, "transformer.resblocks"),
    )
    for name, prefix, layer in encoders:
        config = single_file.text_config(shapes, prefix, layer)
        CLIPTextConfig(**config).save_pretrained(folder / name)
    longest = config["max_position_embeddings"]
    words = CLIPTokenizer.from_pretrained(tokenizer, model_max_length=longest)
    words.save_pretrained(folder / "tokenizer")
    words.pad_token = words.convert_ids_to_tokens(0)
    words.save_pretrained(folder / "tokenizer_2")
    with torch.device("meta"):
        vae = AutoencoderKL(**single_file.vae_config(shapes))
    vae.save_config(folder / "vae")
    EulerDiscreteScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        **marks,
    ).save_config(folder / "scheduler")
    index = {
        "_class_name": _PIPELINE,
        "_diffusers_version": "0.31.0",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def _check_schedule(config) -> None:
    expected = {
        "num_train_timesteps": TIMESTEPS,
        "beta_start": BETA_START,
        "beta_end": BETA_END,
        "beta_schedule": "scaled_linear",
    }
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise LoRA2Error(
                f"the scheduler's {name} is {config[name]}, SDXL's is {value}; this schedule "
                "cannot be trained"
            )
