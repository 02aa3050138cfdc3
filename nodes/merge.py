"""LoRA² Merge."""

from dataclasses import replace

from comfy_api.latest import io

from ..lora2_core.rank_tools import Cut, cut_merged, merge, open_adapter
from ..lora2_core.rank_tools.adapters import assumptions, counted_as, together, unmeasured
from ..lora2_core.ranks import rank_report
from ..lora2_core.training.measuring import PASSES
from .host import progress
from .lists import each, gathered
from .measured import LISTS, gauge, measure_inputs
from .sockets import (
    ADVANCED,
    CATEGORY,
    SAVED_AS,
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
            is_input_list=True,  # the dataset nodes give latents and positive one at a time
            inputs=[
                *cut_inputs(("everything", "rank", "energy", "megabytes", "effect")),
                io.Boolean.Input(
                    "overlap", default=False, optional=True, extra_dict=ADVANCED,
                    tooltip="Keep only what all of them change, in the same shape. Lets LoRAs of "
                    "different base models through.",
                ),
                growing_adapters("A LoRA, or a LoRA² Pick with its weight."),
                *measure_inputs(),
            ],
            outputs=cut_outputs(),
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, **lists) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        return gathered(_merged(node_id, **inputs) for inputs in each(lists, LISTS))


def _merged(
    node_id, overlap=False, model=None, latents=None, positive=None, passes=PASSES, **inputs
) -> io.NodeOutput:
    chosen = ingredients(inputs)
    on, limit = gauge(inputs, model, latents, positive, passes)
    if on is not None:
        chosen = [replace(one, adapter=counted_as(one.adapter, on.base)) for one in chosen]
    notes = assumptions(together([one.adapter for one in chosen]))
    counter = progress.Counter(node_id)
    first = limit if on is None else Cut()
    outcome = merge(chosen, first, overlap=overlap, saved_as=SAVED_AS, on_component=counter)
    if on is not None:
        whole = on.measured(open_adapter(outcome.state, "the merge"), node_id)
        notes += unmeasured(whole)
        counter = progress.Counter(node_id)
        outcome = cut_merged(outcome, whole, limit, saved_as=SAVED_AS, on_component=counter)
    report = rank_report.with_cut(rank_report.report(outcome.state), outcome)
    return io.NodeOutput(outcome.state, report, ui={"text": [f"{notes}{outcome}"]})
