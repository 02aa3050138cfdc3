"""LoRA² Merge."""

from comfy_api.latest import io

from ..lora2_core.rank_tools import merge
from ..lora2_core.rank_tools.adapters import assumptions, together
from ..lora2_core.ranks import rank_report
from .host import progress
from .sockets import (
    ADVANCED,
    CATEGORY,
    SAVED_AS,
    cut,
    cut_inputs,
    cut_outputs,
    growing_adapters,
    ingredients,
)


class LoRA2Merge(io.ComfyNode):
    """Adapters of any ranks as one: exact, then cut if asked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Merge",
            display_name="LoRA² Merge",
            category=CATEGORY,
            description="Merges LoRAs of any ranks: exactly, or down to a rank, energy or size.",
            inputs=[
                *cut_inputs(("everything", "rank", "energy", "megabytes")),
                io.Boolean.Input(
                    "overlap", default=False, optional=True, extra_dict=ADVANCED,
                    tooltip="Keep only what all of them change, in the same shape. Lets LoRAs of "
                    "different base models through.",
                ),
                growing_adapters("A LoRA, or a LoRA² Pick with its weight."),
            ],
            outputs=cut_outputs(),
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, overlap=False, **inputs) -> io.NodeOutput:
        chosen = ingredients(inputs)
        counter = progress.Counter(cls.hidden.unique_id)
        outcome = merge(
            chosen, cut(**inputs), overlap=overlap, saved_as=SAVED_AS, on_component=counter
        )
        report = rank_report.with_cut(rank_report.report(outcome.state), outcome)
        notes = assumptions(together([one.adapter for one in chosen]))
        return io.NodeOutput(outcome.state, report, ui={"text": [f"{notes}{outcome}"]})
