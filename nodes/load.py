"""LoRA² Load."""

from comfy_api.latest import io

from ..lora2_core import adapter_file, rank_report
from ..lora2_core.fit import fit
from . import host
from .sockets import CATEGORY, RankReport


class LoRA2Load(io.ComfyNode):
    """Applies a LoRA of equal or unequal ranks, and says what of it fitted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        strength = {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.05}
        return io.Schema(
            node_id="LoRA2Load",
            display_name="LoRA² Load",
            category=CATEGORY,
            description="Loads a LoRA onto a model, and fails clearly if it does not fit.",
            inputs=[
                io.Model.Input("model", tooltip="The model to apply the LoRA to."),
                io.Combo.Input(
                    "lora_name", options=host.lora_names(), tooltip="A file of the loras folder."
                ),
                io.Float.Input(
                    "strength_model", **strength, tooltip="How strongly to change the model."
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Needed only if the LoRA adapts text encoders."
                ),
                io.Float.Input(
                    "strength_clip",
                    **strength,
                    optional=True,
                    tooltip="How strongly to change the text encoders.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.Clip.Output(display_name="clip", tooltip="The text encoders with the LoRA."),
                RankReport.Output(display_name="rank_report", tooltip="The rank of every layer."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name, **_):
        """A file that changed on disk is loaded again."""
        return host.lora_path(lora_name).stat().st_mtime_ns

    @classmethod
    def execute(
        cls, model, lora_name, strength_model, clip=None, strength_clip=1.0
    ) -> io.NodeOutput:
        state = adapter_file.read(host.lora_path(lora_name))
        components = adapter_file.components(state)
        shapes = host.target_shapes(model, clip)
        text = str(fit(components, shapes, lora_name, host.describe(model)))
        new_model, new_clip = host.apply_lora(model, clip, state, strength_model, strength_clip)
        host.show_text(text, cls.hidden.unique_id)
        report = rank_report.report(state)
        return io.NodeOutput(new_model, new_clip, report, ui={"text": [text]})

