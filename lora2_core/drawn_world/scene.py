"""A scene as data, its caption, and random scenes."""

import random
import re
from dataclasses import dataclass, replace

from .backgrounds import BACKGROUNDS
from .hand import Hand
from .objects import KINDS
from .patterns import PATTERNS
from .pen import Colour
from .subjects import Subject
from .wear import ACCESSORIES

COLOURS: dict[str, Colour] = {
    "red": (214, 46, 50),
    "orange": (242, 138, 36),
    "yellow": (248, 212, 52),
    "green": (58, 164, 74),
    "blue": (46, 98, 216),
    "purple": (134, 64, 188),
    "black": (58, 56, 66),
    "white": (246, 244, 238),
}
_WEARING = {
    "hat": "wearing a hat",
    "scarf": "wearing a scarf",
    "sunglasses": "wearing sunglasses",
    "balloon": "with a balloon",
}
_RARE = "sks"


@dataclass(frozen=True)
class Scene:
    """One object in one place.

    kind: a key of KINDS. colour and second: keys of COLOURS; second only for two-coloured. x, y:
    shift of the object in shares of the picture; size: 1 is usual; angle: degrees. seed: the
    place's own small choices. subject: an individual, whose look replaces pattern and colours;
    colour then recolours its body, or is None. hand: who drew the object, if not the usual one.
    """

    kind: str
    background: str
    colour: str | None
    pattern: str = "solid"
    second: str | None = None
    accessory: str | None = None
    x: float = 0.0
    y: float = 0.0
    size: float = 1.0
    angle: float = 0.0
    seed: int = 0
    subject: Subject | None = None
    hand: Hand | None = None


def partner(colour: str) -> str:
    """The second colour of a pattern whose caption names one colour only."""
    return "black" if colour in ("white", "yellow") else "white"


def caption(scene: Scene, token: str = _RARE) -> str:
    """What a picture of the scene shows, complete; `token` stands for a subject or a hand."""
    words = ["a"]
    if scene.colour is not None:
        words.append(scene.colour)
        if scene.pattern == "two-coloured":
            words.append(f"and {scene.second}")
        elif scene.pattern != "solid":
            words.append(scene.pattern)
    if scene.subject is not None or scene.hand is not None:
        words.append(token)
    words.append(scene.kind)
    if scene.accessory is not None:
        words.append(_WEARING[scene.accessory])
    text = " ".join([*words, scene.background])
    return re.sub(r"^a (?=[aeio])", "an ", text)


def random_scene(rng: random.Random) -> Scene:
    """Half of the objects in one colour, a fifth with an accessory, everything else even."""
    pattern = "solid" if rng.random() < 0.5 else rng.choice(PATTERNS[1:])
    colour = rng.choice(list(COLOURS))
    second = None
    if pattern == "two-coloured":
        second = rng.choice([name for name in COLOURS if name != colour])
    scene = Scene(
        kind=rng.choice(list(KINDS)),
        background=rng.choice(list(BACKGROUNDS)),
        colour=colour,
        pattern=pattern,
        second=second,
        accessory=rng.choice(ACCESSORIES) if rng.random() < 0.2 else None,
    )
    return placed(scene, rng)


def placed(scene: Scene, rng: random.Random) -> Scene:
    """The scene with a random place, size and angle of the object."""
    return replace(
        scene,
        x=rng.uniform(-0.12, 0.12),
        y=rng.uniform(-0.05, 0.05),
        size=rng.uniform(0.82, 1.18),
        angle=rng.uniform(-12, 12),
        seed=rng.randrange(2**31),
    )


def subject_scene(
    subject: Subject,
    background: str,
    rng: random.Random,
    accessory: str | None = None,
    colour: str | None = None,
) -> Scene:
    """A subject somewhere, at a random place, size and angle; colour recolours its body."""
    scene = Scene(subject.kind, background, colour, accessory=accessory, subject=subject)
    return placed(scene, rng)


def labels(scene: Scene) -> dict[str, int]:
    """Class indices of what a picture shows; of a subject no colour and pattern."""
    named = scene.subject is None
    return {
        "object": list(KINDS).index(scene.kind),
        "background": list(BACKGROUNDS).index(scene.background),
        "colour": list(COLOURS).index(scene.colour) if named else -1,
        "pattern": PATTERNS.index(scene.pattern) if named else -1,
        "accessory": 0 if scene.accessory is None else 1 + ACCESSORIES.index(scene.accessory),
    }


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption can hold."""
    texts = ["a an and photo of", _RARE, *KINDS, *COLOURS, *PATTERNS, *BACKGROUNDS]
    found = re.findall(r"[a-z]+", " ".join([*texts, *_WEARING.values()]))
    return tuple(dict.fromkeys(found))
