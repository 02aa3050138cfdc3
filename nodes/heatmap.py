"""LoRA² Rank Heatmap."""

import json

from comfy_api.latest import io

from ..lora2_core import rank_picture, rank_report
from ..lora2_core.errors import LoRA2Error
from ..lora2_core.rank_tools import Adapter, Ingredient, open_adapter
from . import host
from .shown import shown
from .sockets import (
    CATEGORY,
    WIRE,
    LoraModel,
    Pick,
    RankReport,
    connected,
    file_input,
    fingerprint,
    growing,
)

host.serve_spectra(shown)


class LoRA2RankHeatmap(io.ComfyNode):
    """Where the capacity of one or more adapters sits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2RankHeatmap",
            display_name="LoRA² Rank Heatmap",
            category=CATEGORY,
            description="Shows the rank of every layer, and what is in it.",
            is_output_node=True,
            inputs=[
                file_input(),
                *growing(
                    "more",
                    "more_",
                    [RankReport, LoraModel, Pick],
                    "Rank reports or LoRAs from other nodes; several are compared.",
                    least=0,
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", is_output_list=True, tooltip="The picture of each."
                ),
                io.String.Output(
                    display_name="reports", is_output_list=True, tooltip="Each report as JSON."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name, **_):
        return fingerprint(lora_name)

    @classmethod
    def execute(cls, lora_name, **inputs) -> io.NodeOutput:
        views = []
        if lora_name != WIRE:
            views.append(_of_adapter(open_adapter(host.lora_path(lora_name), lora_name)))
        views += [_of_wire(source, name) for name, source in connected(inputs, "more").items()]
        if not views:
            raise LoRA2Error("there is nothing to show; choose a file, or connect a LoRA")
        pictures = [host.image(rank_picture.draw(view["report"])) for view in views]
        texts = [json.dumps(view["report"]) for view in views]
        return io.NodeOutput(pictures, texts, ui={"lora2_ranks": views})


def _of_adapter(adapter: Adapter) -> dict:
    header = getattr(adapter.state, "header", None)
    if header is not None:  # a file of gigabytes takes no longer than its header
        report = rank_report.report_from_header(header)
    else:
        report = rank_report.report(adapter.state)
    return {"title": adapter.name, "report": report, "token": shown.add(adapter)}


def _of_wire(source, name: str) -> dict:
    if isinstance(source, Ingredient):
        return _of_adapter(source.adapter)
    if "components" in source and "totals" in source:
        return {"title": name, "report": source, "token": None}
    return _of_adapter(open_adapter(source, name))
