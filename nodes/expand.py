"""LoRA² Expand Ranks."""

from comfy_api.latest import io

from ..lora2_core.errors import LoRA2Error
from ..lora2_core.files.adapter_file import LoraState
from ..lora2_core.rank_tools import Ingredient, expand
from ..lora2_core.rank_tools.adapters import assumptions
from ..lora2_core.rank_tools.expand import highest_rank
from ..lora2_core.rank_tools.outcome import noted
from ..lora2_core.ranks import rank_report
from .sockets import CATEGORY, LoraModel, RankReport, growing_adapters, ingredients


class LoRA2ExpandRanks(io.ComfyNode):
    """Adapters of unequal ranks, padded to one, for tools that demand equal shapes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2ExpandRanks",
            display_name="LoRA² Expand Ranks",
            category=CATEGORY,
            description="Pads all layers to one rank. Nothing changes but the shapes.",
            inputs=[
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="The common rank; 0 takes the largest of all that are connected.",
                ),
                growing_adapters("A LoRA, or a LoRA² Pick for a file."),
            ],
            outputs=[
                LoraModel.Output(
                    display_name="loras", is_output_list=True, tooltip="One for each input."
                ),
                RankReport.Output(
                    display_name="rank_reports", is_output_list=True, tooltip="One for each input."
                ),
            ],
        )

    @classmethod
    def execute(cls, rank, **inputs) -> io.NodeOutput:
        adapters = [_unweighted(one) for one in ingredients(inputs)]
        rank = rank or max(highest_rank(adapter) for adapter in adapters)
        expanded = [expand(adapter, rank) for adapter in adapters]
        loras = [LoraState(dict(one), one.metadata) for one in expanded]
        before = [row.before for one in expanded for row in one.rows]
        ranks = f"rank {min(before)} to {max(before)} → {rank}"
        text = f"{assumptions(adapters)}{len(loras)} adapters, {ranks}"
        text += "".join(dict.fromkeys(one.beside + noted(one.left_out) for one in expanded))
        reports = [
            rank_report.with_cut(rank_report.report(lora), one)
            for lora, one in zip(loras, expanded, strict=True)
        ]
        return io.NodeOutput(loras, reports, ui={"text": [text]})


def _unweighted(chosen: Ingredient):
    if any(chosen.weight_of(name) != 1 for name in chosen.adapter.components):
        raise LoRA2Error(
            f"a weight is not 1 ({chosen}), but expanding does not scale; set them to 1, or use "
            "LoRA² Merge"
        )
    return chosen.adapter
