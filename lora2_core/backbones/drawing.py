"""What to draw with a model, and how."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Drawing:
    """One picture a prompt, by text alone.

    negative: what not to draw, or None for the model's own unconditional prompt. seed: of the
    noise. guidance: scale of classifier-free guidance. side: px of the square pictures.
    """

    prompts: tuple[str, ...]
    negative: str | None
    seed: int
    steps: int
    guidance: float
    side: int
