"""Whether an adapter belongs to a model: by name and by shape, before anything is applied."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ..errors import LoRA2Error
from .stored import Stored

_TEXT = ("lora_te", "text_encoder")


@dataclass(frozen=True)
class Fit:
    """placed: components that the model takes. left_out: the others."""

    placed: Sequence[str]
    left_out: Sequence[str]

    def __str__(self) -> str:
        total = len(self.placed) + len(self.left_out)
        text = f"matched {len(self.placed)} of {total} components"
        if any(name.startswith(_TEXT) for name in self.left_out):
            text += "; connect clip to apply the text encoders' part"
        return text


def fit(
    listed: Iterable[Stored], shapes: Mapping[str, Sequence[int]], name: str, model: str
) -> Fit:
    """Compares an adapter's components with the weights a model offers.

    listed: from stored.stored_components. shapes: weight shape [m, n…] of every component name
    that the model understands. name, model: for the message. Raises LoRA2Error if no component
    fits, or if one that is named alike has another shape (another architecture).
    """
    components = {stored.name: _size(stored.shape) for stored in listed}
    placed = [component for component in components if component in shapes]
    misfits = [c for c in placed if components[c] != _size(shapes[c])]
    if misfits:
        worst = misfits[0]
        raise LoRA2Error(
            f"{name} was made for another architecture than {model}: {len(misfits)} of its "
            f"{len(components)} components have another shape ({worst} is "
            f"{'×'.join(map(str, components[worst]))}, the model has "
            f"{'×'.join(map(str, shapes[worst]))}); load the checkpoint that it was trained on"
        )
    if not placed:
        only_text = all(component.startswith(_TEXT) for component in components)
        raise LoRA2Error(
            f"none of the {len(components)} components of {name} fits {model}; "
            + ("connect its clip" if only_text else "load the checkpoint that it was trained on")
        )
    return Fit(placed, [component for component in components if component not in shapes])


def _size(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0], prod(shape[1:])
