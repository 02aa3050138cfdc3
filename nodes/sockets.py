"""Socket types and small helpers that the nodes share."""

from collections.abc import Sequence

import torch
from comfy_api.latest import io

from ..lora2_core.config import MAX_RANK
from ..lora2_core.errors import LoRA2Error
from ..lora2_core.files.peft_folder import stamp
from ..lora2_core.rank_tools import Adapter, Cut, Ingredient, open_adapter
from ..lora2_core.rank_tools.cut import HOW
from .host import folders

CATEGORY = "LoRA²"
LoraModel = io.Custom("LORA_MODEL")  # the host's own: a LoRA state dict
LossMap = io.Custom("LOSS_MAP")  # the host's own: {"loss": [...]}
RankReport = io.Custom("LORA2_RANK_REPORT")  # lora2_core.rank_report's dict, JSON-ready
TrainOptions = io.Custom("LORA2_OPTIONS")  # fields of TrainConfig, and `empty`

Preview = io.Custom("LORA2_PREVIEW")  # preview.Plan
Pick = io.Custom("LORA2_PICK")  # lora2_core.rank_tools.Ingredient
SAVED_AS = torch.float16  # what a size in megabytes counts in: LoRA² Save's default
WIRE = "(connected lora)"

# Passed by extra_dict because ComfyUI 0.8 has no `advanced` argument; newer pages fold these away.
ADVANCED = {"advanced": True}


def file_input() -> io.Input:
    """A file of the loras folder, or WIRE."""
    return io.Combo.Input(
        "lora_name",
        options=[WIRE, *folders.lora_names()],
        tooltip="A file of the loras folder, or what is connected.",
    )


def adapter_inputs() -> list:
    """A file of the loras folder or a wire; chosen_adapter reads them."""
    return [file_input(), LoraModel.Input("lora", optional=True, tooltip="Instead of a file.")]


class FileNode(io.ComfyNode):
    """A node with an input lora_name: it runs anew when the file has changed, and is refused with
    the name of a file that is gone.
    """

    @classmethod
    def fingerprint_inputs(cls, lora_name, **_) -> str | None:
        stamps = [stamp(folders.lora_path(name)) for name in _named(lora_name) if name != WIRE]
        return " ".join(stamps) or None

    @classmethod
    def validate_inputs(cls, lora_name, more=None) -> bool | str:
        # more: of ranked_inputs, which the host hands to every validation of such a node
        found = (name == WIRE or folders.known_lora(name) for name in _named(lora_name))
        return next((answer for answer in found if answer is not True), True)


def _named(lora_name: str | Sequence[str]) -> Sequence[str]:
    """A node that takes lists is asked with a list, too."""
    return lora_name if isinstance(lora_name, list | tuple) else [lora_name]


def chosen_adapter(lora_name: str, lora) -> Adapter:
    """What adapter_inputs say; raises LoRA2Error if they say two things or nothing."""
    if (lora is None) == (lora_name == WIRE):
        state = "not connected" if lora is None else "connected"
        raise LoRA2Error(
            f"lora_name is {lora_name!r} and lora is {state}; choose a file, or connect a lora "
            f"and choose {WIRE!r}"
        )
    if lora is not None:
        return open_adapter(lora, "the connected lora")
    return open_adapter(folders.lora_path(lora_name), lora_name)


def growing(name: str, prefix: str, types: list, tooltip: str, least: int = 1) -> io.Input:
    """Any number of sockets `name.prefix0`, …; the page adds one as the last is taken."""
    socket = io.MultiType.Input(prefix.rstrip("_"), types, tooltip=tooltip)
    template = io.Autogrow.TemplatePrefix(input=socket, prefix=prefix, min=least, max=32)
    return io.Autogrow.Input(name, template=template, tooltip=tooltip)


def connected(inputs: dict, name: str) -> dict:
    """Socket → what is connected to it, in order; takes growing's values out of `inputs`."""
    found = inputs.pop(name, None) or {}
    order = sorted(found, key=lambda key: int(key.rpartition("_")[2]))
    return {key: found[key] for key in order if found[key] is not None}


def ranked_inputs(more: str) -> list:
    """A file, a wire and any number of further ones, of all that has ranks; `wires` reads them.

    more: tooltip of the further ones.
    """
    kinds = [RankReport, LoraModel, Pick]
    return [
        file_input(),
        io.MultiType.Input(
            "lora",
            kinds,
            optional=True,
            tooltip="A LoRA, a pick or a rank report from another node.",
        ),
        growing("more", "more_", kinds, more, least=0),
    ]


def wires(lora, inputs: dict) -> list:
    """What is connected to ranked_inputs, in order; takes it out of `inputs`."""
    first = [] if lora is None else [lora]
    return [*first, *connected(inputs, "more").values()]


def cut_outputs() -> list:
    """An adapter that was cut, and its report; of lists.gathered."""
    return [
        LoraModel.Output(
            display_name="lora", is_output_list=True, tooltip="For LoRA² Save, Load LoRA Model."
        ),
        RankReport.Output(
            display_name="rank_report",
            is_output_list=True,
            tooltip="Ranks, and what each layer kept.",
        ),
    ]


def seed_input(tooltip: str) -> io.Input:
    """A seed that the page leaves as it is."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFF_FFFF_FFFF_FFFF,
        control_after_generate=False,
        tooltip=tooltip,
    )


def growing_adapters(tooltip: str) -> io.Input:
    """Sockets for adapters, which `ingredients` reads."""
    return growing("loras", "lora_", [Pick, LoraModel], tooltip)


def ingredients(inputs: dict) -> list[Ingredient]:
    """Picks as they are, a LORA_MODEL with weight 1; takes them out of `inputs`."""
    return [
        lora if isinstance(lora, Ingredient) else Ingredient(open_adapter(lora, name))
        for name, lora in connected(inputs, "loras").items()
    ]


def cut_inputs(choices: tuple[str, ...], optional: bool = False) -> list:
    """What `cut` reads: `keep` with one number for each of its choices."""
    return [
        io.Combo.Input(
            "keep", options=list(choices), default=choices[0], optional=optional,
            tooltip="What limits the result: the number of that name below.",
        ),
        io.Int.Input(
            "rank", default=32, min=1, max=MAX_RANK, optional=optional,
            tooltip="No component above this rank.",
        ),
        io.Float.Input(
            "energy", default=0.95, min=0.01, max=1.0, step=0.01, round=0.0001, optional=optional,
            tooltip="Share of each component's Σσ² to keep.",
        ),
        io.Float.Input(
            "megabytes", default=50.0, min=0.01, max=10_000.0, step=1.0, round=0.01,
            optional=optional,
            tooltip="Size of the file, saved in fp16, at most.",
        ),
        io.Combo.Input(
            "how", options=list(HOW), default="svd", optional=True, extra_dict=ADVANCED,
            tooltip="svd keeps the best directions. prefix keeps the first rows, which is the "
            "paper's own truncation and loses more. effect keeps what does the most to the loss, "
            "of a file that notes that, or measured.",
        ),
    ]  # fmt: skip


def cut(
    keep: str = "",
    rank: int = 0,
    energy: float = 0,
    megabytes: float = 0,
    how: str = "svd",
    effect: float = 0.99,
) -> Cut:
    """The Cut that cut_inputs' values ask for; another choice than the four keeps all."""
    numbers = {"rank": rank, "energy": energy, "megabytes": megabytes, "effect": effect}
    return Cut(**{name: value for name, value in numbers.items() if name == keep}, how=how)
