"""LoRA² Compress."""

from comfy_api.latest import io

from ..lora2_core.rank_tools import compress
from ..lora2_core.rank_tools.adapters import assumptions
from ..lora2_core.ranks import rank_report
from .host import progress
from .sockets import (
    CATEGORY,
    SAVED_AS,
    FileNode,
    adapter_inputs,
    chosen_adapter,
    cut,
    cut_inputs,
    cut_outputs,
)


class LoRA2Compress(FileNode):
    """One adapter, with less in it and the ranks where they count."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Compress",
            display_name="LoRA² Compress",
            category=CATEGORY,
            description="Makes a LoRA smaller with the least loss; each layer keeps what it needs.",
            inputs=[
                *adapter_inputs(),
                *cut_inputs(("megabytes", "energy", "rank")),
            ],
            outputs=cut_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, lora_name, lora=None, **limits) -> io.NodeOutput:
        adapter, limit = chosen_adapter(lora_name, lora), cut(**limits)
        counter = progress.Counter(cls.hidden.unique_id)
        outcome = compress(adapter, limit, saved_as=SAVED_AS, on_component=counter)
        report = rank_report.with_cut(rank_report.report(outcome.state), outcome)
        return io.NodeOutput(
            outcome.state, report, ui={"text": [f"{assumptions([adapter])}{outcome}"]}
        )
