"""Tensors of an adapter file beside its factors: what they are, and which of them add up."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

_LONGEST_ENDING = 200  # characters


class Kind(NamedTuple):
    """What a tensor beside the factors is.

    one, many: in a sentence. adds: whether those of two adapters add up, and strength scales it.
    hosted: whether the host's loader reads it.
    """

    one: str
    many: str
    adds: bool = False
    hosted: bool = True


NORM = Kind("norm", "norms", adds=True)
WEIGHT = Kind("whole weight", "whole weights", adds=True)
BIAS = Kind("bias", "biases", adds=True)
SET = Kind("replaced weight", "replaced weights")
MAGNITUDE = Kind("DoRA magnitude", "DoRA magnitudes")
RESHAPE = Kind("reshaped weight", "reshaped weights")
ALPHA = Kind("alpha", "alphas")
OFT = Kind("OFT or BOFT", "OFTs or BOFTs")
RESCALE = Kind("rescaling of an OFT", "rescalings of OFTs")
GLORA = Kind("part of a GLoRA", "parts of GLoRAs")
EMBEDDING = Kind("part of an embedding", "parts of embeddings", hosted=False)
FACTOR_BIAS = Kind("bias of a factor", "biases of factors", adds=True)
IA3 = Kind("part of an IA3", "parts of IA3s", hosted=False)
LAYER_EMBEDDING = Kind(
    "adapter of an embedding layer", "adapters of embedding layers", hosted=False
)
PEFT_OFT = Kind("part of PEFT's OFT or BOFT", "parts of PEFT's OFTs or BOFTs", hosted=False)
VERA = Kind("part of a VeRA", "parts of VeRAs", hosted=False)
UNKNOWN = Kind("tensor not understood", "tensors not understood", hosted=False)

_ENDINGS = (
    (r"\.(?:diff|w_norm)", WEIGHT),
    (r"\.(?:diff_b|b_norm)", BIAS),
    (r"\.set_weight", SET),
    (r"\.(?:dora_scale|lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?)", MAGNITUDE),
    (r"\.reshape_weight", RESHAPE),
    (r"\.oft_blocks", OFT),
    (r"\.rescale", RESCALE),
    (r"\.(?:oft_[rRs]|boft_[A-Za-z]+)(?:\.[^.]+)?(?:\.weight)?", PEFT_OFT),
    (r"\.[ab][12]\.weight", GLORA),
    (r"\.lora_(?:B|up)(?:\.[^.]+)?\.bias", FACTOR_BIAS),
    (r"\.on_input|\.ia3_l(?:\.[^.]+)?", IA3),
    (r"\.lora_embedding_[AB](?:\.[^.]+)?", LAYER_EMBEDDING),
    (r"\.vera_[A-Za-z_]+(?:\.[^.]+)?", VERA),
    (r"\.alpha", ALPHA),
)
_KNOWN = tuple((re.compile(f"(?:{ending})$"), kind) for ending, kind in _ENDINGS)
# of the layer's own weight, or bias, one number for one: their shape tells the layer's width
_SHAPED = (NORM, WEIGHT, BIAS, SET)


class Extra(NamedTuple):
    """One such tensor. name: of its layer as the file writes it, "" if it belongs to none; ending:
    the rest of the key."""

    key: str
    name: str
    ending: str
    kind: Kind
    shape: tuple[int, ...]

    @property
    def hosted_ending(self) -> str:
        """Its ending in the form that the host's loader reads, kohya's and LyCORIS'."""
        special = {MAGNITUDE: ".dora_scale", FACTOR_BIAS: ".diff_b"}
        return special.get(self.kind, self.ending)

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Of the layer's weight or bias; (0,), which no layer has, if this tensor does not tell."""
        return self.shape if self.kind in _SHAPED and self.shape else (0,)

    @property
    def on_weight(self) -> bool:
        """Whether it changes the layer's weight."""
        return bool(self.name) and self.kind not in (BIAS, FACTOR_BIAS)


def extra_of(key: str, shape: tuple[int, ...]) -> Extra:
    """What the tensor of that key and shape is, by its name."""
    if key.startswith("bundle_emb."):
        return Extra(key, "", key, EMBEDDING, shape)
    for pattern, kind in _KNOWN:
        match = pattern.search(key, max(0, len(key) - _LONGEST_ENDING))
        if match is not None and match.start() > 0:
            if kind is WEIGHT and len(shape) < 2:
                kind = NORM
            return Extra(key, key[: match.start()], key[match.start() :], kind, shape)
    return Extra(key, "", key, UNKNOWN, shape)


def counted(extras: Iterable[Extra]) -> dict[str, int]:
    """How many there are of each kind, alphas left out: {"norms": 3, "bias": 1}."""
    found = Counter(extra.kind for extra in extras if extra.kind is not ALPHA)
    return {kind.one if n == 1 else kind.many: n for kind, n in found.items()}


def said(extras: Iterable[Extra]) -> str:
    """The same in words: "3 norms, 1 bias"; "" if there are none."""
    return ", ".join(f"{n} {what}" for what, n in counted(extras).items())


def hosted_tensor(extra: Extra, tensor: Tensor, shape: tuple[int, ...], scale: float) -> Tensor:
    """What goes with hosted_ending.

    shape, scale: of the layer's component; (), 1 if it has none. PEFT's magnitudes [out] become
    [out, 1…], and the bias of an up factor is scaled as PEFT scales the factors.
    """
    if extra.kind is FACTOR_BIAS:
        return tensor.float() * scale
    if extra.kind is MAGNITUDE and extra.ending != ".dora_scale":
        return tensor.reshape(-1, *(1 for _ in shape[1:] or (1,)))
    return tensor
