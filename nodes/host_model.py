"""A loaded SDXL or KOALA model in training: its weights on loan, and its data as examples."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor, nn

from ..lora2_core.data import Example
from ..lora2_core.errors import LoRA2Error
from ..lora2_core.offload import in_main_memory, visiting

_EVERYTHING = 1e30  # bytes to ask the host for, so that other models leave the GPU
_BLOCKS = ("BasicTransformerBlock", "ResBlock")


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


class ModelLost(LoRA2Error):
    """The host could not give a model to training again."""


class _Loan:
    """Models' weights on loan to training; the host may have them back for a while."""

    def __init__(self, patcher, dtype: str):
        self._patchers = [patcher]
        self._dtype = dtype
        self._waiting: list[nn.Module] = []  # blocks whose weights are in main memory
        self._held = ExitStack()

    def __enter__(self) -> "_Loan":
        # in one call, or the host might make room for one by moving another
        comfy.model_management.load_models_gpu(
            self._patchers, memory_required=_EVERYTHING, force_full_load=True
        )
        device = self._patchers[0].load_device
        with ExitStack() as stack:  # all or nothing
            if self._waiting:
                stack.callback(_unload, device)  # what the host took for loaded is not
            waiting = {module for block in self._waiting for module in block.modules()}
            for patcher in self._patchers:
                stack.enter_context(_borrowed_weights(patcher.model, waiting))
            stack.enter_context(_computing_in(self._patchers[0].model, self._dtype))
            stack.enter_context(visiting(self._waiting, device))
            stack.enter_context(_in_training())
            self._held = stack.pop_all()
        comfy.model_management.soft_empty_cache()
        return self

    def __exit__(self, *_) -> None:
        self._held.close()

    def extend(self, patcher) -> None:
        """Borrows another model's weights, too, until the loan ends."""
        self._held.close()
        self._patchers.append(patcher)
        self.__enter__()

    def offload(self, blocks: Sequence[nn.Module]) -> None:
        """Has the weights of these blocks wait in main memory until the loan ends.

        The host then finds the models unloaded, and loads them as it needs them.
        """
        self._held.close()
        self._waiting = list(blocks)
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


def _unload(device: torch.device) -> None:
    comfy.model_management.free_memory(_EVERYTHING, device)


@contextmanager
def _borrowed_weights(model: nn.Module, waiting: Set[nn.Module]) -> Iterator[None]:
    """Every weight as a normal tensor over the memory of the host's, which may be inference ones;
    those of the modules in `waiting` as copies in main memory, which are all that is left of them.

    Raises LoRA2Error if weights are quantised.
    """
    originals = []
    try:
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, tensor in store.items():
                    if tensor is None:
                        continue
                    is_parameter = store is module._parameters
                    alias = _alias(tensor, is_parameter)
                    if module in waiting:
                        kept = in_main_memory(alias)
                        alias = tensor = nn.Parameter(kept, False) if is_parameter else kept
                    originals.append((store, name, tensor))
                    store[name] = alias
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
