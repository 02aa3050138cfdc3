"""Whether an adapter belongs to a model: by name and by shape, before anything is applied."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from ..errors import LoRA2Error
from .families import UNETS
from .header import shown
from .module_names import layer_key, named
from .stored import Stored
from .written import place

_TEXT = ("lora_te", "text_encoder")  # of which a loader's names begin with one
_NAMED = 3  # components that are left out, by name

Shape = Sequence[int]


class Targets(Mapping[str, Shape]):
    """The weights that a model offers: every name that its loader takes → shape [m, n…].

    Finds the loader's name of a layer whatever style an adapter names it in: the model itself says
    how its blocks are counted.
    """

    def __init__(self, shapes: Mapping[str, Shape]):
        self._shapes = shapes

    def __getitem__(self, name: str) -> Shape:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    @cached_property
    def base(self) -> str | None:
        """The family of the UNet (families.UNETS), or None for another model."""
        own = {
            name: tuple(shape)
            for name, shape in self._shapes.items()
            if name.startswith(("lora_unet_input_", "lora_unet_middle_", "lora_unet_output_"))
        }
        found = named([own]).families & UNETS.keys()
        return next((name for name in UNETS if name in found), None)

    @cached_property
    def has_text(self) -> bool:
        """Whether there is a text encoder."""
        return any(name.startswith(_TEXT) for name in self._shapes)

    @cached_property
    def _by_layer(self) -> dict[str, str]:
        family = UNETS[self.base or next(iter(UNETS))]
        found: dict[str, str] = {}
        for name, shape in self._shapes.items():
            found.setdefault(layer_key(name, tuple(shape), family), name)
        return found

    def find(self, name: str, shape: Shape) -> str | None:
        """The loader's name of an adapter's component, or None if the model has no such layer."""
        if name in self._shapes:
            return name
        family = UNETS[self.base or next(iter(UNETS))]
        return self._by_layer.get(layer_key(name, tuple(shape), family))


@dataclass(frozen=True)
class Fit:
    """placed: components that the model takes. left_out: the others. names: of those that are
    placed, as the model's loader calls them. waiting: those left out that are of text encoders,
    where none is connected."""

    placed: Sequence[str]
    left_out: Sequence[str]
    names: Mapping[str, str] = field(default_factory=dict)
    waiting: Collection[str] = ()

    def __str__(self) -> str:
        total = len(self.placed) + len(self.left_out)
        text = f"matched {len(self.placed)} of {total} components"
        if self.waiting:
            text += "; connect clip to apply the text encoders' part"
        strangers = [name for name in self.left_out if name not in self.waiting]
        if strangers:
            text += f"\nwarning: the model has no layer for {_some(strangers)}; left out"
        return text


def fit(listed: Iterable[Stored], shapes: Mapping[str, Shape], name: str, model: str) -> Fit:
    """Compares an adapter's components with the weights a model offers.

    listed: from stored.stored_components. shapes: Targets, or weight shape [m, n…] of every
    component name that the model understands. name, model: for the message. Raises LoRA2Error if no
    component fits, if one that is named alike has another shape (another architecture), or if two
    are one layer of the model.
    """
    targets = shapes if isinstance(shapes, Targets) else Targets(shapes)
    listed = list(listed)
    components = {stored.name: _size(stored.shape) for stored in listed}
    names: dict[str, str] = {}
    for stored in listed:
        found = targets.find(stored.name, stored.shape)
        if found is not None:
            names[stored.name] = found
    _refuse_twice(names, name)
    misfits = [c for c, found in names.items() if components[c] != _size(targets[found])]
    if misfits:
        worst = misfits[0]
        raise LoRA2Error(
            f"{name} was made for another architecture than {model}: {len(misfits)} of its "
            f"{len(components)} components have another shape ({shown(worst)} is "
            f"{'×'.join(map(str, components[worst]))}, the model has "
            f"{'×'.join(map(str, targets[names[worst]]))}); load the checkpoint that it was "
            "trained on"
        )
    left_out = [stored for stored in listed if stored.name not in names]
    waiting = frozenset(stored.name for stored in left_out if _waits(stored, targets))
    if not names:
        way_out = "connect its clip" if len(waiting) == len(left_out) else (
            f"load the checkpoint that it was trained on ({_some([*components])})"
        )  # fmt: skip
        raise LoRA2Error(
            f"none of the {len(components)} components of {name} fits {model}; {way_out}"
        )
    return Fit(list(names), [stored.name for stored in left_out], names, waiting)


def _waits(stored: Stored, targets: Targets) -> bool:
    """Whether it is a text encoder's, and there is none."""
    if targets.has_text:
        return False
    return stored.name.startswith(_TEXT) or place(stored.name, stored.shape).kind == "text"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(shown, names[:_NAMED])) + more


def _refuse_twice(names: Mapping[str, str], name: str) -> None:
    first: dict[str, str] = {}
    for component, found in names.items():
        if found in first:
            raise LoRA2Error(
                f"{shown(first[found])} and {shown(component)} of {name} are the same layer; save "
                "each adapter to a file of its own"
            )
        first[found] = component


def _size(shape: Shape) -> tuple[int, int]:
    return shape[0], prod(shape[1:])
