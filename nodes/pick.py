"""LoRA² Pick."""

from comfy_api.latest import io

from ..lora2_core.rank_tools import Ingredient
from ..lora2_core.rank_tools.blocks import parse_blocks
from .sockets import ADVANCED, CATEGORY, FileNode, Pick, adapter_inputs, chosen_adapter


class LoRA2Pick(FileNode):
    """A file or a wire, and how much of it is wanted, for LoRA² Merge and LoRA² Expand Ranks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        weight = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}
        return io.Schema(
            node_id="LoRA2Pick",
            display_name="LoRA² Pick",
            category=CATEGORY,
            description="Chooses a LoRA and its weight for a merge.",
            inputs=[
                *adapter_inputs(),
                io.Float.Input(
                    "weight", **weight,
                    tooltip="How much of it goes in; below 0 it is taken away.",
                ),
                io.Float.Input(
                    "self_attention", **weight, optional=True, extra_dict=ADVANCED,
                    tooltip="A further factor for its self-attention: layout and content.",
                ),
                io.Float.Input(
                    "cross_attention", **weight, optional=True, extra_dict=ADVANCED,
                    tooltip="A further factor for its cross-attention: what words mean.",
                ),
                io.String.Input(
                    "blocks", default="", optional=True, extra_dict=ADVANCED,
                    tooltip="Further factors by block, such as down=0.5, middle=1, up4=0.",
                ),
            ],
            outputs=[Pick.Output(display_name="pick", tooltip="For a socket of LoRA² Merge.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, lora_name, weight, lora=None, self_attention=1.0, cross_attention=1.0, blocks=""
    ) -> io.NodeOutput:
        strengths = parse_blocks(blocks)
        adapter = chosen_adapter(lora_name, lora)
        return io.NodeOutput(
            Ingredient(adapter, weight, self_attention, cross_attention, strengths)
        )
