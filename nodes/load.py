"""LoRA² Load."""

from comfy_api.latest import io
from safetensors.torch import load_file

from ..lora2_core.files.adapter_file import LoraState
from ..lora2_core.files.fit import Fit, fit
from ..lora2_core.files.fit_beside import fit_beside, nothing_fits
from ..lora2_core.files.header import read_header
from ..lora2_core.files.hosted import hosted, hosted_beside
from ..lora2_core.files.peft_folder import stamp
from ..lora2_core.files.stored import contents, seen, seen_in_header
from ..lora2_core.rank_tools import Adapter, Ingredient, merge, open_adapter
from ..lora2_core.rank_tools.adapters import factorised, size_of_factors
from ..lora2_core.rank_tools.blocks import parse_blocks
from ..lora2_core.rank_tools.merge import NothingLeft
from ..lora2_core.ranks import rank_report
from .host import folders, loader, progress
from .host.model import describe
from .sockets import ADVANCED, CATEGORY, SAVED_AS, FileNode, RankReport, cut, cut_inputs

_MOST_KEPT = 2**30  # numbers; a LoKr of a few megabytes can have factors of gigabytes
_last: tuple[tuple, Adapter] | None = None  # one file's factorisation: the slider moves on one


class LoRA2Load(FileNode):
    """Applies a LoRA of equal or unequal ranks, whole or cut, and says what of it fitted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        strength = {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.05}
        share = {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.05}
        return io.Schema(
            node_id="LoRA2Load",
            display_name="LoRA² Load",
            category=CATEGORY,
            description="Loads a LoRA onto a model, whole or to a budget, and fails clearly if it "
            "does not fit.",
            inputs=[
                io.Model.Input("model", tooltip="The model to apply the LoRA to."),
                io.Combo.Input(
                    "lora_name", options=folders.lora_names(), tooltip="A file of the loras folder."
                ),
                io.Float.Input(
                    "strength_model", **strength, tooltip="How strongly to change the model."
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Needed only if the LoRA adapts text encoders."
                ),
                io.Float.Input(
                    "strength_clip", **strength, optional=True,
                    tooltip="How strongly to change the text encoders.",
                ),
                *cut_inputs(("everything", "megabytes", "energy", "rank"), optional=True),
                io.Float.Input(
                    "self_attention", **share, optional=True, extra_dict=ADVANCED,
                    tooltip="A further strength for self-attention: layout and content.",
                ),
                io.Float.Input(
                    "cross_attention", **share, optional=True, extra_dict=ADVANCED,
                    tooltip="A further strength for cross-attention: what words mean.",
                ),
                io.String.Input(
                    "blocks", default="", optional=True, extra_dict=ADVANCED,
                    tooltip="Further strengths by block, such as down=0.5, middle=1, up4=0.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.Clip.Output(display_name="clip", tooltip="The text encoders with the LoRA."),
                RankReport.Output(display_name="rank_report", tooltip="The rank of every layer."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, lora_name, strength_model, clip=None, strength_clip=1.0,
        self_attention=1.0, cross_attention=1.0, blocks="", **limits,
    ) -> io.NodeOutput:  # fmt: skip
        limit, shares = cut(**limits), (self_attention, cross_attention, parse_blocks(blocks))
        header = read_header(folders.lora_path(lora_name))
        inside = contents(seen_in_header(header))
        targets, called = loader.target_shapes(model, clip), describe(model)
        found = Fit((), ())
        if inside.components:
            found = fit(inside.components, targets, lora_name, called)
        beside = fit_beside(inside.extras, inside.components, targets, lora_name, called)
        if not inside.components:
            nothing_fits(beside, lora_name, called)
        text, names = f"{found}{beside}", found.names
        outcome = None
        if limit.keeps_all and shares == (1.0, 1.0, parse_blocks("")):
            # as the host's loader does, without a copy of what the system has mapped
            state = LoraState(load_file(header.path), header.metadata)
        else:
            adapter = _opened(lora_name, limit, cls.hidden.unique_id, targets.base)
            try:
                outcome = merge([Ingredient(adapter, 1.0, *shares)], limit, saved_as=SAVED_AS)
            except NothingLeft:
                text += "\nevery strength is 0: nothing of it is applied"
                report = rank_report.report_from_header(header, targets.base)
                return io.NodeOutput(model, clip, report, ui={"text": [text]})
            state, inside = outcome.state, contents(seen(outcome.state))
            places = {one.name: targets.find(one.name, one.shape) for one in inside.components}
            names = {name: place for name, place in places.items() if place is not None}
            beside = fit_beside(inside.extras, inside.components, targets, lora_name, called)
        report = rank_report.report(state, inside, targets.base)
        if outcome is not None:
            report = rank_report.with_cut(report, outcome)
            text += f"\n{outcome.kept}, {_megabytes(report):.1f} MB"
        given = hosted(state, inside.components, names)
        given |= hosted_beside(state, inside.components, beside.placed, beside.names)
        new_model, new_clip = loader.apply_lora(model, clip, given, strength_model, strength_clip)
        return io.NodeOutput(new_model, new_clip, report, ui={"text": [text]})


def _opened(lora_name: str, limit, node_id: str | None, base: str | None) -> Adapter:
    """The file's adapter; for a cut with its directions in memory, which a next one needs again.

    base: the model's family, which says how blocks are counted where the file does not.
    """
    global _last
    path = folders.lora_path(lora_name)
    adapter = open_adapter(path, lora_name)
    if adapter.assumed and base is not None:
        adapter = open_adapter(path, lora_name, base)
    size = size_of_factors((stored, stored.rank) for stored in adapter.components.values())
    if limit.keeps_all or size > _MOST_KEPT:
        return adapter
    key = (path, stamp(path), limit.how, tuple(adapter.components))
    if _last is None or _last[0] != key:
        _last = None  # or two of them would be in memory
        _last = key, factorised(adapter, limit.how, progress.Counter(node_id))
    return _last[1]


def _megabytes(report: dict) -> float:
    """As LoRA² Save writes it by default."""
    return SAVED_AS.itemsize * report["totals"]["parameters"] / 1e6
