"""LoRA² Save."""

from comfy_api.latest import io

from ..lora2_core.files import adapter_file, writing
from .host import folders
from .sockets import CATEGORY, LoraModel


class LoRA2Save(io.ComfyNode):
    """Writes an adapter into the loras folder, in the form that every loader takes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Save",
            display_name="LoRA² Save",
            category=CATEGORY,
            description="Saves a LoRA into the loras folder. An existing file is never replaced.",
            is_output_node=True,
            inputs=[
                LoraModel.Input("lora", tooltip="From LoRA² Train."),
                io.String.Input(
                    "prefix",
                    default="lora2/subject",
                    tooltip="Name within the loras folder; a number is added. "
                    "A slash makes a subfolder.",
                ),
                io.String.Input(
                    "trigger_words",
                    default="",
                    optional=True,
                    tooltip="Words that call the subject up. LoRA managers show them.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["fp16", "bf16", "fp32"],
                    default="fp16",
                    tooltip="Of the stored factors. fp16 is precise and half the size of fp32.",
                ),
            ],
            outputs=[io.String.Output(display_name="name", tooltip="The file's name in loras.")],
        )

    @classmethod
    def execute(cls, lora, prefix, precision, trigger_words="") -> io.NodeOutput:
        folder = folders.loras_folder()
        state = adapter_file.with_trigger_words(adapter_file.as_state(lora), trigger_words)
        path = writing.write_new(state, folder, prefix, precision=precision)
        name = str(path.relative_to(folder.resolve()))  # as the host lists it
        text = f"saved {name} ({path.stat().st_size / 1e6:.1f} MB)"
        return io.NodeOutput(name, ui={"text": [text]})
