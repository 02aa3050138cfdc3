"""How one object is painted: body paint, colours of its parts, emblem and extra."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

from .pen import Colour, mix

DARK: Colour = (46, 42, 54)
LIGHT: Colour = (250, 247, 240)


@dataclass
class Look:
    """body: the paint; main: its first colour; parts: colours that differ from the usual."""

    body: Image.Image
    main: Colour
    second: Colour
    parts: Mapping[str, Colour] = field(default_factory=dict)
    emblem: tuple[str, Colour] | None = None
    extra: tuple[str, Colour] | None = None

    def part(self, name: str, usual: "Colour | Image.Image") -> "Colour | Image.Image":
        """The colour of a part."""
        return self.parts.get(name, usual)

    def darker(self, share: float = 0.3) -> Colour:
        """The main colour in the shade; a black body gets lighter instead."""
        return mix(self.main, LIGHT if sum(self.main) < 230 else DARK, share)
