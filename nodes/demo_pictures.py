"""LoRA² Demo Pictures."""

from comfy_api.latest import io
from PIL import Image

from ..lora2_core.drawn_world import load_subjects, photograph
from .host import outputs
from .sockets import CATEGORY, seed_input


class LoRA2DemoPictures(io.ComfyNode):
    """Pictures of one subject of the drawn world, to learn it from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2DemoPictures",
            display_name="LoRA² Demo Pictures",
            category=CATEGORY,
            description="Draws pictures of one subject in different places, with captions.",
            inputs=[
                io.Combo.Input(
                    "subject",
                    options=list(load_subjects()),
                    default="tiger clock",
                    tooltip="An individual that LoRA² Demo Model has never seen.",
                ),
                io.Int.Input("count", default=5, min=1, max=32, tooltip="How many pictures of it."),
                seed_input("Of the places, sizes and angles."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", is_output_list=True, tooltip="128 px, one at a time."
                ),
                io.String.Output(
                    display_name="captions", is_output_list=True, tooltip="What each one shows."
                ),
            ],
        )

    @classmethod
    def execute(cls, subject, count, seed) -> io.NodeOutput:
        pictures = photograph(load_subjects()[subject], count, seed)
        images = [outputs.image(Image.fromarray(picture)) for picture, _ in pictures]
        return io.NodeOutput(images, [caption for _, caption in pictures])
