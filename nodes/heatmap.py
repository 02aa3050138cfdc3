"""LoRA² Rank Heatmap."""

import json

from comfy_api.latest import io

from ..lora2_core.errors import LoRA2Error
from ..lora2_core.rank_tools import Adapter
from ..lora2_core.rank_tools.adapters import assumptions
from ..lora2_core.ranks import rank_picture
from . import reports
from .host import outputs, server
from .shown import shown
from .sockets import CATEGORY, WIRE, FileNode, ranked_inputs, wires


class LoRA2RankHeatmap(FileNode):
    """Where the capacity of one or more adapters sits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2RankHeatmap",
            display_name="LoRA² Rank Heatmap",
            category=CATEGORY,
            description="Shows the rank of every layer, and what is in it.",
            is_output_node=True,
            inputs=ranked_inputs("Further ones to compare with."),
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
    def execute(cls, lora_name, lora=None, **inputs) -> io.NodeOutput:
        views = [] if lora_name == WIRE else [_of_file(lora_name)]
        sources = wires(lora, inputs)
        for number, source in enumerate(sources, 1):
            title = f"connected lora {number}" if len(sources) > 1 else "connected lora"
            views.append(_of_wire(source, title))
        if not views:
            raise LoRA2Error("there is nothing to show; choose a file, or connect a LoRA")
        highest = max(view["report"]["totals"]["max_rank"] for view in views)
        pictures = [outputs.image(rank_picture.draw(view["report"], highest)) for view in views]
        texts = [json.dumps(view["report"]) for view in views]
        return io.NodeOutput(pictures, texts, ui={"lora2_ranks": views})


def _of_adapter(adapter: Adapter) -> dict:
    report = reports.report_of(adapter)
    return {
        "title": adapter.name,
        "report": report,
        "token": shown.add(adapter, report),
        "note": assumptions([adapter]).strip(),
    }


def _of_file(name: str) -> dict:
    return _of_adapter(reports.file_adapter(name))


def _of_wire(source, title: str) -> dict:
    found = reports.wired(source, title)
    if isinstance(found, dict):
        return {"title": title, "report": found, "token": None}
    return _of_adapter(found)


def _spectra(asked: dict[str, str]) -> dict | None:
    token, component = asked.get("token", ""), asked.get("component", "")
    if not component:
        return shown.summary(token)
    number = component.isdecimal() and len(component) < 10
    return shown.component(token, int(component)) if number else None


server.serve("/lora2/ranks", lambda asked: _of_file(asked.get("lora_name", "")))
server.serve("/lora2/spectra", _spectra)
