"""LoRA² Compress."""

from comfy_api.latest import io

from ..lora2_core.rank_tools import compress
from ..lora2_core.rank_tools.adapters import assumptions, counted_as, unmeasured
from ..lora2_core.ranks import rank_report
from ..lora2_core.training.measuring import PASSES
from .host import progress
from .lists import each, gathered
from .measured import LISTS, gauge, measure_inputs
from .sockets import (
    CATEGORY,
    SAVED_AS,
    FileNode,
    adapter_inputs,
    chosen_adapter,
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
            is_input_list=True,  # the dataset nodes give latents and positive one at a time
            inputs=[
                *adapter_inputs(),
                *cut_inputs(("megabytes", "energy", "rank", "effect")),
                *measure_inputs(),
            ],
            outputs=cut_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **lists) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        return gathered(_compressed(node_id, **inputs) for inputs in each(lists, LISTS))


def _compressed(
    node_id, lora_name, lora=None, model=None, latents=None, positive=None, passes=PASSES, **limits
) -> io.NodeOutput:
    on, limit = gauge(limits, model, latents, positive, passes)
    adapter = chosen_adapter(lora_name, lora)
    if on is not None:
        adapter = on.measured(counted_as(adapter, on.base), node_id)
    counter = progress.Counter(node_id)
    outcome = compress(adapter, limit, saved_as=SAVED_AS, on_component=counter)
    report = rank_report.with_cut(rank_report.report(outcome.state), outcome)
    text = f"{assumptions([adapter])}{unmeasured(adapter)}{outcome}"
    return io.NodeOutput(outcome.state, report, ui={"text": [text]})
