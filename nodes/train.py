"""LoRA² Train."""

from comfy_api.latest import io

from ..lora2_core.ranks import rank_report
from ..lora2_core.runs.packing import pack_result
from .host import outputs, server
from .host.live import runs
from .job import Job, Material, Settings, known_run
from .sockets import CATEGORY, LoraModel, LossMap, RankReport
from .train_inputs import inputs

server.serve(
    "/lora2/live", lambda asked: runs.states(asked.get("client", ""), asked.get("workflow", ""))
)
server.serve_picture("/lora2/preview", runs.thumbnail)


class LoRA2Train(io.ComfyNode):
    """Trains an adapter on the model that the host has loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Train",
            display_name="LoRA² Train",
            category=CATEGORY,
            description="Trains a LoRA whose every layer learns its own rank.",
            is_input_list=True,  # the dataset nodes give lists, and one run needs all of it
            inputs=inputs(),
            outputs=[
                LoraModel.Output(display_name="lora", tooltip="For LoRA² Save, Load LoRA Model."),
                LossMap.Output(display_name="loss_map", tooltip="For Plot Loss Graph."),
                RankReport.Output(display_name="rank_report", tooltip="The rank of every layer."),
                io.Int.Output(display_name="steps", tooltip="Steps that were trained."),
                io.Image.Output(
                    display_name="previews",
                    tooltip="All previews on one sheet. Without a preview, what is connected here "
                    "does not run.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, resume=None) -> bool | str:
        return known_run(resume[0]) if resume else True

    @classmethod
    def execute(
        cls, model, latents, positive, reg_latents=None, reg_positive=None, preview=None,
        clip=None, captions=None, reg_captions=None, **widgets,
    ) -> io.NodeOutput:  # fmt: skip
        job = Job(
            model=model[0],
            clip=None if clip is None else clip[0],
            own=Material("latents", latents, positive, "captions", captions),
            prior=Material("reg_latents", reg_latents, reg_positive, "reg_captions", reg_captions),
            plan=None if preview is None else preview[0],
            settings=Settings.of({name: v[0] for name, v in widgets.items()}, clip is not None),
        )
        result, sheet = job.run(cls.hidden.unique_id, cls.hidden.extra_pnginfo)
        lora = pack_result(result)
        return io.NodeOutput(
            lora,
            {"loss": result.losses},
            rank_report.report(lora),
            result.steps,
            outputs.nothing() if sheet is None else outputs.image(sheet),
        )
