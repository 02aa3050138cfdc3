"""A host's models on loan to training: all weights where training needs them, and then back."""

from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager

import comfy.model_management
import torch
from torch import Tensor, nn

from ...lora2_core.errors import LoRA2Error
from ...lora2_core.room.offload import brought, in_main_memory, visiting

_EVERYTHING = 1e30  # bytes to ask the host for, so that other models leave the GPU
_BLOCKS = ("BasicTransformerBlock", "ResBlock")


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Its transformer and residual blocks."""
    return [module for module in network.modules() if type(module).__name__ in _BLOCKS]


def in_full(patcher):
    """Of a model that the host streams in pieces its own fully loaded delegate; else the model.

    Pieces may be evicted between forward and backward pass, while autograd refers to them.
    """
    if getattr(patcher, "is_dynamic", lambda: False)():
        return patcher.get_non_dynamic_delegate()
    return patcher


class ModelLost(LoRA2Error):
    """The host could not give a model to training again."""


class Loan:
    """Models' weights on loan to training; the host may have them back for a while."""

    def __init__(self, patcher, dtype: str):
        self._patchers = [patcher]
        self._dtype = dtype
        self._waiting: list[nn.Module] = []
        self._placed = False  # whether somebody has chosen what waits
        self._held = ExitStack()

    @property
    def waiting(self) -> list[nn.Module]:
        """Blocks whose weights are in main memory."""
        return list(self._waiting)

    def __enter__(self) -> "Loan":
        """Raises LoRA2Error if the models do not fit."""
        device = self._patchers[0].load_device
        whole = _fit(self._patchers, device)
        if not whole and not self._placed:
            self._waiting = blocks_of(self._patchers[0].model.diffusion_model)
        # in one call, or the host might make room for one by moving another
        comfy.model_management.load_models_gpu(
            self._patchers, memory_required=_EVERYTHING, force_full_load=whole
        )
        with ExitStack() as stack:  # all or nothing
            if self._waiting:
                stack.callback(_unload, device)  # what the host took for loaded is not
            waiting = {module for block in self._waiting for module in block.modules()}
            for patcher in self._patchers:
                stack.enter_context(_borrowed_weights(patcher.model, device, waiting))
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
        """Has the weights of these blocks, and of no others, wait in main memory until the loan
        ends.

        The host then finds the models unloaded, and loads them as it needs them.
        """
        self._held.close()
        self._waiting, self._placed = list(blocks), True
        self.__enter__()

    @contextmanager
    def given_back(self) -> Iterator:
        """The first model as the host knows it, to sample with: within the block it may move all
        weights as it likes. Afterwards they are loaded and borrowed again, whatever happened.

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
                f"after a preview the model could not be loaded again ({error}); ask for "
                "smaller previews, or none, and resume the run"
            ) from error


def _fit(patchers: Sequence, device: torch.device) -> bool:
    """Whether the models fit into the device's memory, once others have left it."""
    if device.type == "cpu":
        return True
    management = comfy.model_management
    loaded = [model for model in management.loaded_models() if model.load_device == device]
    there = management.get_free_memory(device) + sum(model.loaded_size() for model in loaded)
    return 1.1 * sum(patcher.model_size() for patcher in patchers) < there


def _unload(device: torch.device) -> None:
    comfy.model_management.free_memory(_EVERYTHING, device)


@contextmanager
def _borrowed_weights(
    model: nn.Module, device: torch.device, waiting: Set[nn.Module]
) -> Iterator[None]:
    """Every weight on the device, as a normal tensor over the memory of the host's, which may be
    inference ones; those of the modules in `waiting` in main memory.

    A weight that waits and that the host had on the device is moved, not copied: afterwards the
    host has it in main memory. Raises LoRA2Error if weights are quantised, or do not fit.
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
                    there = alias.device.type == device.type
                    if module in waiting and there:
                        kept = in_main_memory(alias, device)
                        alias = tensor = nn.Parameter(kept, False) if is_parameter else kept
                    elif is_parameter and module not in waiting and not there:
                        alias = nn.Parameter(brought(alias, device), False)
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
