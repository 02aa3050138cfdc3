"""Training examples and the order in which they come."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import LoRA2Error


@dataclass(frozen=True)
class Example:
    """One image: latent [1, c, h, w] in the model's own scale; conditioning name → [1, …].

    empty: the conditioning with an empty caption, for caption dropout.
    """

    latent: Tensor
    conditioning: Mapping[str, Tensor]
    empty: Mapping[str, Tensor] | None = None

    @property
    def size(self) -> tuple:
        """What must agree for two examples to share a batch."""
        shapes = tuple(sorted((name, tuple(t.shape[1:])) for name, t in self.conditioning.items()))
        return tuple(self.latent.shape[1:]), shapes


@dataclass(frozen=True)
class Batch:
    """latents [b, c, h, w]; conditioning name → [b, …]; weight of its loss."""

    latents: Tensor
    conditioning: Mapping[str, Tensor]
    weight: float = 1.0


def check_examples(examples: Sequence[Example], channels: int, what: str = "latents") -> None:
    """Raises LoRA2Error for an empty set, a wrong channel count, or a value that is not finite."""
    if not examples:
        raise LoRA2Error(f"there are no {what}; give at least one image with its caption")
    for index, example in enumerate(examples):
        latent = example.latent
        if latent.ndim != 4 or latent.shape[1] != channels:
            raise LoRA2Error(
                f"{what} {index} have shape {tuple(latent.shape)}, but the model takes "
                f"{channels} channels, [1, {channels}, h, w]; encode with this model's own VAE"
            )
        if not torch.isfinite(latent).all():
            raise LoRA2Error(f"{what} {index} hold NaN or infinity; encode that image again")
        for name, tensor in (*example.conditioning.items(), *(example.empty or {}).items()):
            if not torch.isfinite(tensor).all():
                raise LoRA2Error(f"the conditioning {name} of {what} {index} holds NaN or infinity")


def batches(
    examples: Sequence[Example],
    *,
    batch_size: int,
    accumulation: int,
    seed: int,
    prior: Sequence[Example] = (),
    prior_weight: float = 1.0,
    repeats: int = 1,
    caption_dropout: float = 0.0,
) -> Iterator[list[Batch]]:
    """The batches of each optimiser step, for ever; their weighted losses add up to the step's.

    Examples of equal size share a batch of up to `batch_size`; each pass over the set is shuffled
    by `seed`. With `prior`, every batch has a second one of class images beside it, its loss
    weighted by `prior_weight` [DreamBooth, prior preservation]. A pass holds every example
    `repeats` times, but those of the prior once: few pictures then fill larger batches. Each time
    that an example comes, of the prior or not, its caption is empty with the chance
    `caption_dropout`. Raises LoRA2Error if one has no empty caption then.
    """
    if caption_dropout > 0 and any(example.empty is None for example in (*examples, *prior)):
        raise LoRA2Error(
            f"caption_dropout is {caption_dropout}, but the conditioning of an empty prompt is not "
            "there; give it, or set caption_dropout to 0"
        )
    own = _epochs(list(examples) * repeats, batch_size, seed, caption_dropout)
    others = _epochs(prior, batch_size, (seed + 1) % 2**64, caption_dropout) if prior else None
    return _steps(own, others, accumulation, prior_weight)


def _steps(own, others, accumulation: int, prior_weight: float) -> Iterator[list[Batch]]:
    while True:
        step = []
        for _ in range(accumulation):
            step.append(_collate(next(own), 1.0 / accumulation))
            if others is not None:
                step.append(_collate(next(others), prior_weight / accumulation))
        yield step


def _epochs(examples, batch_size, seed, caption_dropout) -> Iterator[list[Example]]:
    generator = torch.Generator().manual_seed(seed)
    # of its own, so that the order is the same with and without
    dropping = torch.Generator().manual_seed(seed)
    while True:
        groups: dict[tuple, list[Example]] = {}
        for index in torch.randperm(len(examples), generator=generator).tolist():
            example = examples[index]
            if torch.rand((), generator=dropping) < caption_dropout:
                example = replace(example, conditioning=example.empty)
            # an empty caption may have another number of tokens, and is grouped by its own
            groups.setdefault(example.size, []).append(example)
        cuts = [
            group[start : start + batch_size]
            for group in groups.values()
            for start in range(0, len(group), batch_size)
        ]
        for index in torch.randperm(len(cuts), generator=generator).tolist():
            yield cuts[index]


def _collate(examples: list[Example], weight: float) -> Batch:
    return Batch(
        torch.cat([example.latent for example in examples]),
        {
            name: torch.cat([example.conditioning[name] for example in examples])
            for name in examples[0].conditioning
        },
        weight,
    )
