"""LoRA² Load."""

from collections.abc import Mapping
from typing import NamedTuple

from comfy_api.latest import io
from safetensors.torch import load_file
from torch import Tensor

from ..lora2_core.files.adapter_file import LoraState
from ..lora2_core.files.fit import Fit, Targets, fit
from ..lora2_core.files.fit_beside import FitBeside, fit_beside, nothing_fits
from ..lora2_core.files.header import read_header
from ..lora2_core.files.hosted import hosted, hosted_beside
from ..lora2_core.files.peft_folder import stamp
from ..lora2_core.files.stored import Contents, contents, seen, seen_in_header
from ..lora2_core.rank_tools import Adapter, Cut, Ingredient, merge, open_adapter
from ..lora2_core.rank_tools.adapters import counted_as, factorised, size_of_factors, unmeasured
from ..lora2_core.rank_tools.blocks import parse_blocks
from ..lora2_core.rank_tools.merge import NothingLeft
from ..lora2_core.ranks import rank_report
from ..lora2_core.training.measuring import PASSES
from .host import folders, loader, progress
from .host.model import describe
from .lists import each, gathered
from .measured import LISTS, Gauge, gauge, measure_inputs
from .sockets import ADVANCED, CATEGORY, SAVED_AS, FileNode, RankReport, cut_inputs

_MOST_KEPT = 2**30  # numbers; a LoKr of a few megabytes can have factors of gigabytes


class _Kept(NamedTuple):
    """seen: what was measured on; it lives as long as its marks in the key count."""

    key: tuple
    adapter: Adapter
    seen: tuple | None


_last: _Kept | None = None  # one file's directions: the slider moves on one


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
            is_input_list=True,  # the dataset nodes give latents and positive one at a time
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
                *cut_inputs(("everything", "megabytes", "energy", "rank", "effect"), optional=True),
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
                *measure_inputs(model=False),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", is_output_list=True, tooltip="The model with the LoRA."
                ),
                io.Clip.Output(
                    display_name="clip", is_output_list=True,
                    tooltip="The text encoders with the LoRA.",
                ),
                RankReport.Output(
                    display_name="rank_report", is_output_list=True,
                    tooltip="The rank of every layer.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, **lists) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        return gathered(_loaded(node_id, **inputs) for inputs in each(lists, LISTS))


def _loaded(
    node_id, model, lora_name, strength_model, clip=None, strength_clip=1.0,
    self_attention=1.0, cross_attention=1.0, blocks="", **inputs,
) -> io.NodeOutput:  # fmt: skip
    on, limit = _limit(model, **inputs)
    shares = self_attention, cross_attention, parse_blocks(blocks)
    header = read_header(folders.lora_path(lora_name))
    targets, called = loader.target_shapes(model, clip), describe(model)
    found, text = _found(contents(seen_in_header(header)), targets, lora_name, called)
    outcome = None
    if limit.keeps_all and shares == (1.0, 1.0, parse_blocks("")):
        # as the host's loader does, without a copy of what the system has mapped
        state = LoraState(load_file(header.path), header.metadata)
    else:
        adapter = _opened(lora_name, limit, node_id, targets.base, on)
        try:
            outcome = merge([Ingredient(adapter, 1.0, *shares)], limit, saved_as=SAVED_AS)
        except NothingLeft:
            text += "\nevery strength is 0: nothing of it is applied"
            report = rank_report.report_from_header(header, targets.base)
            return io.NodeOutput(model, clip, report, ui={"text": [text]})
        state = outcome.state
        found = _found_again(contents(seen(state)), targets, lora_name, called)
    report = rank_report.report(state, found.inside, targets.base)
    if outcome is not None:
        report = rank_report.with_cut(report, outcome)
        text = f"{unmeasured(adapter)}{text}\n{outcome.kept}, {_megabytes(report):.1f} MB"
    given = found.given(state), found.places
    new = loader.apply_lora(model, clip, *given, strength_model, strength_clip)
    return io.NodeOutput(*new, report, ui={"text": [text]})


def _limit(model, latents=None, positive=None, passes=PASSES, **limits) -> tuple[Gauge | None, Cut]:
    """As measured.gauge; the model is there in any case, and whole a file needs no order."""
    connected = latents is not None or positive is not None
    on, limit = gauge(limits, model if connected else None, latents, positive, passes)
    return (None, Cut()) if limit.keeps_all else (on, limit)


class _Found(NamedTuple):
    """What an adapter holds, and what of it the model takes. names: of its components there."""

    inside: Contents
    names: Mapping[str, str]
    beside: FitBeside

    @property
    def places(self) -> list[str]:
        """The layers of the model that it changes, as the host's loader calls them."""
        return list(dict.fromkeys([*self.names.values(), *self.beside.names.values()]))

    def given(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, for the host's loader."""
        listed, beside = self.inside.components, self.beside
        taken = hosted(state, listed, self.names)
        return taken | hosted_beside(state, listed, beside.placed, beside.names)


def _found(inside: Contents, targets: Targets, name: str, model: str) -> tuple[_Found, str]:
    """And what to say of it; raises LoRA2Error if nothing of the file fits the model."""
    listed = inside.components
    placed = fit(listed, targets, name, model) if listed else Fit((), ())
    beside = fit_beside(inside.extras, listed, targets, name, model)
    if not listed:
        nothing_fits(beside, name, model)
    return _Found(inside, placed.names, beside), f"{placed}{beside}"


def _found_again(inside: Contents, targets: Targets, name: str, model: str) -> _Found:
    """Of what a cut has left, which may be nothing that the model takes."""
    places = {one.name: targets.find(one.name, one.shape) for one in inside.components}
    names = {component: place for component, place in places.items() if place is not None}
    beside = fit_beside(inside.extras, inside.components, targets, name, model)
    return _Found(inside, names, beside)


def _opened(
    lora_name: str, limit: Cut, node_id: str | None, base: str | None, on: Gauge | None
) -> Adapter:
    """The file's adapter; for a cut with its directions in memory, which a next one needs again.

    base: the model's family, which says how blocks are counted where the file does not. on: what
    to measure on, or None.
    """
    global _last
    path = folders.lora_path(lora_name)
    adapter = counted_as(open_adapter(path, lora_name), base)
    if limit.keeps_all:
        return adapter
    size = size_of_factors((stored, stored.rank) for stored in adapter.components.values())
    key = (path, stamp(path), limit.how, tuple(adapter.components), on and on.mark)
    if _last is not None and _last.key == key:
        return _last.adapter
    _last = None  # or two of them would be in memory
    if on is not None:
        adapter = on.measured(adapter, node_id)
    if size <= _MOST_KEPT:
        adapter = factorised(adapter, limit.how, progress.Counter(node_id))
        _last = _Kept(key, adapter, on and (on.latents, on.positive))
    return adapter


def _megabytes(report: dict) -> float:
    """As LoRA² Save writes it by default."""
    return SAVED_AS.itemsize * report["totals"]["parameters"] / 1e6
