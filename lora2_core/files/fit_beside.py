"""Whether what lies beside an adapter's components belongs to a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import LoRA2Error
from .beside import ALPHA, BIAS, FACTOR_BIAS, NORM, SET, WEIGHT, Extra, said
from .fit import Targets
from .header import shown
from .stored import Stored

_NAMED = 3  # tensors that are not applied, by name


@dataclass(frozen=True)
class FitBeside:
    """placed: tensors that the model takes. left_out: those without a layer there. unread: those
    that the host's loader does not read. names: of the layers, as the loader calls them."""

    placed: list[Extra] = field(default_factory=list)
    left_out: list[Extra] = field(default_factory=list)
    unread: list[Extra] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Lines of their own, each with a break before it; "" if there is nothing to say."""
        text = f"\nbeside: {said(self.placed)}" if said(self.placed) else ""
        for extras, why in (
            (self.left_out, "the model, or clip, has no layer for"),
            (self.unread, "the host's loader does not read"),
        ):
            if said(extras):
                some = ", ".join(shown(extra.key) for extra in extras[:_NAMED])
                more = ", …" if len(extras) > _NAMED else ""
                text += f"\nwarning: {why} {said(extras)} ({some}{more}); left out"
        return text


def fit_beside(
    extras: Iterable[Extra],
    listed: Iterable[Stored],
    targets: Targets,
    name: str,
    model: str,
) -> FitBeside:
    """Compares tensors beside components with the weights that a model offers.

    listed: the components, whose shapes tell of their layers. name, model: for the message. Raises
    LoRA2Error for a norm, bias or weight of another size than the model's.
    """
    shapes = {stored.name: stored.shape for stored in listed}
    found, names = FitBeside(), {}
    for extra in extras:
        if not extra.kind.hosted:
            found.unread.append(extra)
            continue
        place = targets.find(extra.name, shapes.get(extra.name, extra.layer_shape))
        if place is None:
            found.left_out.append(extra)
            continue
        if not _fits(extra, tuple(targets[place])):
            raise LoRA2Error(
                f"{name} was made for another architecture than {model}: {shown(extra.key)} is "
                f"{_sizes(extra.shape)}, and the layer's weight {_sizes(tuple(targets[place]))}; "
                "load the checkpoint that it was trained on"
            )
        names[extra.name] = place
        found.placed.append(extra)
    return FitBeside(found.placed, found.left_out, found.unread, names)


def nothing_fits(found: FitBeside, name: str, model: str) -> None:
    """For a file without components: raises LoRA2Error if none of its tensors is placed."""
    if all(extra.kind is ALPHA for extra in found.placed):
        listed = [*found.left_out, *found.unread]
        raise LoRA2Error(
            f"nothing of {name} fits {model}: it holds {said(listed)} "
            f"({shown(listed[0].key)}, …); load the checkpoint that it was trained on"
        )


def _fits(extra: Extra, weight: tuple[int, ...]) -> bool:
    if extra.kind in (BIAS, FACTOR_BIAS):
        return extra.shape == weight[:1]
    return extra.shape == weight or extra.kind not in (NORM, WEIGHT, SET)


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
