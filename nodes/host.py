"""The host's memory, progress, interrupt, pages, folders and loader.

Of the pack only this file and those named host_….py import the host.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from aiohttp import web
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from server import PromptServer
from torch import Tensor, nn

from ..lora2_core.errors import LoRA2Error
from ..lora2_core.runs.preview_folder import PreviewFolder
from ..lora2_core.training.result import StepInfo
from .live import runs

Interrupt = comfy.model_management.InterruptProcessingException
_LOG_INTERVAL = 1.0  # seconds between lines of the log


def free_memory() -> None:
    """Gives back what torch holds in reserve."""
    comfy.model_management.soft_empty_cache(True)


def available_memory() -> int:
    """Bytes that are free on the device that models run on."""
    return int(comfy.model_management.get_free_memory())


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
