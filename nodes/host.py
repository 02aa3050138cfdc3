"""The host's model, memory, progress, interrupt and folders.

Of the pack only this file and those named host_….py import the host.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.lora_convert
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import folder_paths
import numpy as np
import torch
from aiohttp import web
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from server import PromptServer
from torch import Tensor, nn

from ..lora2_core.data import Example
from ..lora2_core.errors import LoRA2Error
from ..lora2_core.preview_folder import PreviewFolder
from ..lora2_core.train import StepInfo
from .live import runs

Interrupt = comfy.model_management.InterruptProcessingException
_BLOCKS = ("BasicTransformerBlock", "ResBlock")
_LOG_INTERVAL = 1.0  # seconds between lines of the log


class HostDenoiser:
    """The UNet of a loaded MODEL; meets lora2_core's Denoiser protocol. loan: of its weights."""

    def __init__(self, model: comfy.model_base.BaseModel, device: torch.device, loan: "_Loan"):
        self.loan = loan
        self.network = model.diffusion_model
        self.blocks = [m for m in self.network.modules() if type(m).__name__ in _BLOCKS]
        self.device = device
        self._sampling = model.model_sampling
        self.predicts_v = isinstance(self._sampling, comfy.model_sampling.V_PREDICTION)
        self.dtype: torch.dtype = model.get_dtype()
        if model.manual_cast_dtype is not None:
            self.dtype = model.manual_cast_dtype
        self._sigmas = self._sampling.sigmas.to(device).clone()
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
        scaled = self._sampling.calculate_input(self._sigmas[t], noisy).to(self.dtype)
        return self.network(
            scaled,
            t.float(),
            context=conditioning["c_crossattn"].to(self.dtype),
            y=conditioning["y"].to(self.dtype),
            transformer_options={},
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
    """Raises LoRA2Error, naming the model, unless it is an SDXL-family UNet."""
    model = patcher.model
    if type(model) is not comfy.model_base.SDXL:
        raise LoRA2Error(f"{describe(patcher)} cannot be trained; load an SDXL or KOALA checkpoint")
    sampling = patcher.get_model_object("model_sampling")
    known = (comfy.model_sampling.EPS, comfy.model_sampling.V_PREDICTION)
    parents = type(sampling).__mro__[1:]
    kind = next((parent for parent in parents if parent in known), None)
    odd = (comfy.model_sampling.EDM, comfy.model_sampling.X0)
    if kind is None or isinstance(sampling, odd) or not hasattr(sampling, "num_timesteps"):
        raise LoRA2Error(
            f"{describe(patcher)} has a sampling of type "
            f"{', '.join(parent.__name__ for parent in parents[:2])}, which cannot be trained; "
            "use a checkpoint with ε- or v-prediction on the discrete schedule"
        )


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
    images = [image for latent in latents for image in latent["samples"].split(1)]
    pairs = [pair for cond in conditioning for pair in cond]
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
    tensor over the same memory; afterwards the originals are back, whatever happened.
    """
    with torch.inference_mode(False), torch.enable_grad():
        patcher = in_full(patcher)
        with _Loan(patcher, dtype) as loan:
            yield HostDenoiser(patcher.model, patcher.load_device, loan)
        comfy.model_management.soft_empty_cache()


def in_full(patcher):
    """Of a model that the host streams in pieces its own fully loaded delegate; else the model.

    Pieces may be evicted between forward and backward pass, while autograd refers to them.
    """
    if getattr(patcher, "is_dynamic", lambda: False)():
        return patcher.get_non_dynamic_delegate()
    return patcher


def free_memory() -> None:
    """Gives back what torch holds in reserve."""
    comfy.model_management.soft_empty_cache(True)


def available_memory() -> int:
    """Bytes that are free on the device that models run on."""
    return int(comfy.model_management.get_free_memory())


class ModelLost(LoRA2Error):
    """The host could not give a model to training again."""


class _Loan:
    """Models' weights on loan to training; the host may have them back for a while."""

    def __init__(self, patcher, dtype: str):
        self._patchers = [patcher]
        self._dtype = dtype
        self._held = ExitStack()

    def __enter__(self) -> "_Loan":
        # in one call, or the host might make room for one by moving another
        comfy.model_management.load_models_gpu(self._patchers, force_full_load=True)
        with ExitStack() as stack:  # all or nothing
            for patcher in self._patchers:
                stack.enter_context(_borrowed_weights(patcher.model))
            stack.enter_context(_computing_in(self._patchers[0].model, self._dtype))
            stack.enter_context(_in_training())
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._held.close()

    def extend(self, patcher) -> None:
        """Borrows another model's weights, too, until the loan ends."""
        self._held.close()
        self._patchers.append(patcher)
        self.__enter__()

    @contextmanager
    def given_back(self) -> Iterator:
        """The first model as the host knows it, to sample with: within the block it may move all
        weights as it likes. Afterwards they are loaded in full and borrowed again, whatever
        happened.

        Raises ModelLost if that fails.
        """
        self._held.close()
        try:
            with torch.inference_mode():
                yield self._patchers[0]
        finally:
            comfy.model_management.soft_empty_cache()
            self._take_again()

    def _take_again(self) -> None:
        try:
            self.__enter__()
        except Exception as error:
            raise ModelLost(
                f"after a preview the model could not be loaded in full again ({error}); ask for "
                "smaller previews, or none, and resume the run"
            ) from error


@contextmanager
def _borrowed_weights(model: nn.Module) -> Iterator[None]:
    """Every weight as a normal tensor over the memory of the host's, which may be inference ones.

    Raises LoRA2Error if weights are quantised.
    """
    originals = []
    try:
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, tensor in store.items():
                    if tensor is None:
                        continue
                    originals.append((store, name, tensor))
                    store[name] = _alias(tensor, store is module._parameters)
        yield
    finally:
        for store, name, tensor in originals:
            store[name] = tensor


def _alias(tensor: Tensor, is_parameter: bool) -> Tensor:
    if type(tensor) not in (Tensor, nn.Parameter):
        raise LoRA2Error(
            f"the weights are quantised ({type(tensor).__name__}); load the checkpoint in fp16, "
            "bf16, fp32 or plain fp8"
        )
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return nn.Parameter(alias, requires_grad=False) if is_parameter else alias


@contextmanager
def _computing_in(model, dtype: str) -> Iterator[None]:
    """For fp32, has the host's layers cast half-precision weights as they compute."""
    changed = []
    cast = model.manual_cast_dtype
    try:
        if dtype == "fp32" and model.get_dtype() != torch.float32:
            model.manual_cast_dtype = torch.float32
            for module in model.modules():
                if getattr(module, "comfy_cast_weights", None) is False:
                    module.comfy_cast_weights = True
                    changed.append(module)
        yield
    finally:
        model.manual_cast_dtype = cast
        for module in changed:
            module.comfy_cast_weights = False


@contextmanager
def _in_training() -> Iterator[None]:
    """Sets the host's training flag, which ComfyUI 0.8 does not have yet."""
    management = comfy.model_management
    before = getattr(management, "in_training", None)
    try:
        if before is not None:
            management.in_training = True
        yield
    finally:
        if before is not None:
            management.in_training = before


class Progress:
    """on_step for the host: progress bar, messages to the page, log, and the cancel button.

    workflow: the host's EXTRA_PNGINFO, from which a page tells its own runs from another tab's.
    """

    def __init__(self, steps: int, node_id: str | None, workflow: Mapping | None):
        self._bar = comfy.utils.ProgressBar(steps, node_id=node_id)
        self._client = PromptServer.instance.client_id  # None: a client that listens to nothing
        place = (workflow or {}).get("workflow") or {}
        self._place = {"node": str(node_id), "workflow": str(place.get("id", ""))}
        self._run = runs.start(self._client or "", self._place["workflow"], self._place["node"])
        self._logged = 0.0

    def __call__(self, info: StepInfo) -> None:
        self._bar.update_absolute(info.step)
        self._send(self._run.step(info))
        now = time.monotonic()
        if now - self._logged >= _LOG_INTERVAL or info.step == info.steps:
            self._logged = now
            logging.info(
                f"LoRA² step {info.step}/{info.steps} · loss {info.loss:.4f} "
                f"· mean rank {info.mean_rank:.1f}"
            )
        # every step: the bar checks too, but only as often as it redraws
        comfy.model_management.throw_exception_if_processing_interrupted()

    def show(self, previews: PreviewFolder) -> None:
        """Has the page show the pictures of this folder."""
        self._run.previews = previews

    def drawn(self, step: int, count: int) -> None:
        """on_drawn of the previews."""
        self._send(self._run.drawn(step, count))

    def trouble(self, text: str) -> None:
        """A warning, in the log and on the page."""
        logging.warning(f"LoRA² {text}")
        self._send(self._run.complain(text))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._send(self._run.end())

    def _send(self, messages: list[dict]) -> None:
        for message in messages:
            if self._client is not None:
                data = message | self._place
                PromptServer.instance.send_sync("lora2.live", data, self._client)


class Counter:
    """on_component for the host: progress bar and the cancel button."""

    def __init__(self, node_id: str | None):
        self._node_id = node_id
        self._bar: comfy.utils.ProgressBar | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total, node_id=self._node_id)
        self._bar.update_absolute(done)
        comfy.model_management.throw_exception_if_processing_interrupted()


def serve(path: str, answer: Callable[[dict[str, str]], dict | None]) -> None:
    """GET path?…, answered as JSON by answer(parameters), off the event loop.

    404 for None, 422 for a LoRA2Error, both as {"error": text}.
    """

    @PromptServer.instance.routes.get(path)
    async def respond(request: web.Request) -> web.Response:
        try:
            found = await asyncio.to_thread(answer, dict(request.query))
        except LoRA2Error as error:
            return web.json_response({"error": str(error)}, status=422)
        if found is None:
            gone = "this adapter is no longer at hand; run the node again"
            return web.json_response({"error": gone}, status=404)
        return web.json_response(found)


def serve_picture(path: str, answer: Callable[[dict[str, str]], bytes | None]) -> None:
    """GET path?…, answered by answer(parameters) with a JPEG, off the event loop; 404 for None."""

    @PromptServer.instance.routes.get(path)
    async def respond(request: web.Request) -> web.Response:
        found = await asyncio.to_thread(answer, dict(request.query))
        if found is None:
            return web.Response(status=404)
        kept = {"Cache-Control": "private, max-age=86400"}  # a picture is never drawn twice
        return web.Response(body=found, content_type="image/jpeg", headers=kept)


def nothing() -> ExecutionBlocker:
    """An output that is not there: nodes behind it do not run, without an error."""
    return ExecutionBlocker(None)


def image(picture: Image.Image) -> Tensor:
    """An RGB picture as the host's IMAGE [1, h, w, 3] in 0..1."""
    return torch.from_numpy(np.array(picture))[None].float() / 255


def loras_folder() -> Path:
    """Where new adapters go: the first of the host's loras folders."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def output_folder() -> Path:
    return Path(folder_paths.get_output_directory())


def runs_folder() -> Path:
    """Where training runs are kept."""
    return output_folder() / "lora2_runs"


def run_names() -> list[str]:
    """Folders of runs that left a state, the latest first."""
    states = runs_folder().glob("*/*.state.safetensors")
    latest: dict[str, float] = {}
    for path in states:
        with suppress(OSError):  # it may go in the meantime
            name = path.parent.name
            latest[name] = max(latest.get(name, 0.0), path.stat().st_mtime)
    return sorted(latest, key=latest.get, reverse=True)


def lora_names() -> list[str]:
    """Names of the loras folders' files, as the host's own loaders list them."""
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """The file behind a name of the list; raises LoRA2Error if it is gone or outside."""
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise LoRA2Error(f"{name!r} is not in the loras folder; refresh the page and choose again")
    return Path(path)


class _Places(NamedTuple):
    """What the host's loader calls a model's weights: name → key, name → shape."""

    keys: dict
    shapes: dict[str, tuple[int, ...]]


_known_places: WeakKeyDictionary[nn.Module, _Places] = WeakKeyDictionary()


def _places(module: nn.Module, keys_of) -> _Places:
    """Kept for as long as the model lives: to list them takes as long as to load a LoRA."""
    if module not in _known_places:
        weights = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        keys = keys_of(module, {})
        shapes = {name: weights[key] for name, key in keys.items() if key in weights}
        _known_places[module] = _Places(keys, shapes)
    return _known_places[module]


def _all_places(model, clip) -> list[_Places]:
    found = [_places(model.model, comfy.lora.model_lora_keys_unet)]
    if clip is not None:
        found.append(_places(clip.cond_stage_model, comfy.lora.model_lora_keys_clip))
    return found


def target_shapes(model, clip) -> dict[str, tuple[int, ...]]:
    """Shape of the weight behind every component name that the host can place."""
    return {name: shape for part in _all_places(model, clip) for name, shape in part.shapes.items()}


def apply_lora(model, clip, state: Mapping[str, Tensor], strength_model: float, strength_clip):
    """(MODEL, CLIP) with the adapter added, in the steps of the host's own loader."""
    keys = {name: key for part in _all_places(model, clip) for name, key in part.keys.items()}
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(state)), keys)
    model = model.clone()
    model.add_patches(patches, strength_model)
    if clip is not None:
        clip = clip.clone()
        clip.add_patches(patches, strength_clip)
    return model, clip
