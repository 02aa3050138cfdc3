"""LoRA² Demo Model."""

from comfy_api.latest import io

from .host import demo
from .sockets import CATEGORY


class LoRA2DemoModel(io.ComfyNode):
    """The model that comes with the pack, as a checkpoint loader gives one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2DemoModel",
            display_name="LoRA² Demo Model",
            category=CATEGORY,
            description="A small model that comes with the pack, for 128 px, to try things out on.",
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="Of SDXL's kind, with 9 million weights."
                ),
                io.Clip.Output(display_name="clip", tooltip="Knows the words of the drawn world."),
                io.Vae.Output(display_name="vae", tooltip="A tiny autoencoder (TAESD's shape)."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*demo.load())
