"""The host's progress bar, log, page and cancel button, as a run goes on."""

import logging
import time
from collections.abc import Mapping

import comfy.model_management
import comfy.utils
from server import PromptServer

from ...lora2_core.runs.preview_folder import PreviewFolder
from ...lora2_core.training.result import StepInfo, TrainResult
from .live import runs

Interrupt = comfy.model_management.InterruptProcessingException
_LOG_INTERVAL = 1.0  # seconds between lines of the log


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

    def looking(self, done: int, total: int) -> None:
        """on_pass: what is looked at before the first step."""
        if done == total:
            logging.info(f"LoRA² step 0: looked for what each layer needs, {total} passes")
        comfy.model_management.throw_exception_if_processing_interrupted()

    def finished(self, result: TrainResult) -> None:
        """Has the page show the ranks of the file."""
        self._send(self._run.finished(result))

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
