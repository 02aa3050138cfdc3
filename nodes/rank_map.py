"""LoRA² Rank Map."""

import json

from comfy_api.latest import io

from ..lora2_core.errors import LoRA2Error
from ..lora2_core.rank_tools.adapters import assumed_of
from ..lora2_core.ranks import rank_map
from . import reports
from .sockets import CATEGORY, WIRE, FileNode, RankReport, ranked_inputs, wires


class LoRA2RankMap(FileNode):
    """Ranks of one or more adapters, averaged, for another training to start from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2RankMap",
            display_name="LoRA² Rank Map",
            category=CATEGORY,
            description="Takes the ranks of one adapter, or the average of several, for another "
            "training to start from or to keep to.",
            inputs=[
                *ranked_inputs("Further ones to average with."),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="A rank report as JSON, one more to average with.",
                ),
            ],
            outputs=[
                RankReport.Output(display_name="ranks", tooltip="For LoRA² Train or the heatmap."),
                io.String.Output(display_name="text", tooltip="The same as JSON, to keep."),
            ],
        )

    @classmethod
    def execute(cls, lora_name, lora=None, text="", **inputs) -> io.NodeOutput:
        found = [] if lora_name == WIRE else [reports.report_of(reports.file_adapter(lora_name))]
        for number, source in enumerate(wires(lora, inputs), 1):
            one = reports.wired(source, f"connected lora {number}")
            found.append(one if isinstance(one, dict) else reports.report_of(one))
        if text.strip():
            found.append(rank_map.parse(text))
        if not found:
            raise LoRA2Error("there are no ranks; choose a file, connect a LoRA, or give JSON")
        report = rank_map.averaged(found)
        totals = report["totals"]
        said = f"{assumed_of('these')}\n" if rank_map.assumed(found) else ""
        said += (
            f"{totals['components']} components, rank {totals['min_rank']} to "
            f"{totals['max_rank']}, mean {totals['mean_rank']:.1f}"
        )
        return io.NodeOutput(report, json.dumps(report), ui={"text": [said]})
