"""An adapter's tensors as a file holds them: dtypes, order, and how alpha and the factors share ΔW.

One alpha for all components. diffusers (0.35 and 0.42 measured) loses the alphas of attention
layers in kohya's names and scales all of them by one alpha over the layer's rank; older ones do
so wherever alpha is missing. With unequal ranks and alpha = rank, ΔW comes out wrong by their
ratio. With one alpha everywhere, all loaders agree.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import LoRA2Error
from .alphas import alphas
from .beside import FACTOR_BIAS
from .header import TensorInfo, shown
from .stored import Stored, contents, owner, seen, split_key

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SHAPES = ".reshape_weight"  # whole numbers: sizes of a layer
_DTYPE_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
_PLAIN_ROUNDING = 2**-10  # relative; rounding to fp16 costs at most half of it above its subnormals


class Layout:
    """What to write for an adapter; tensors are converted one at a time, a copy could take
    gigabytes.

    tensors: name → dtype, shape, byte range. Order: as in the adapter, except that larger dtypes
    (alpha) come first, so that every tensor is aligned. Whole numbers beside the components keep
    their dtype. Raises LoRA2Error for an empty adapter, for factors that are no floating-point
    numbers, and for dtypes that a file does not have.
    """

    def __init__(self, state: Mapping[str, Tensor], precision: str):
        if not state:
            raise LoRA2Error("the adapter holds no tensors; train it before you save it")
        for key, tensor in state.items():
            whole = split_key(key)[1] in (None, "alpha") and tensor.dtype in _DTYPE_NAMES
            if not (tensor.is_floating_point() or whole):
                raise LoRA2Error(
                    f"tensor {shown(key)} is {tensor.dtype}; only floating-point adapters can be "
                    "saved"
                )
        self._precision = precision
        self._source, self._factors = _balanced(state, precision)
        self.tensors: dict[str, TensorInfo] = {}
        end = 0
        for key in sorted(self._source, key=lambda key: -self._dtype(key).itemsize):
            shape = tuple(self._source[key].shape)
            start, end = end, end + math.prod(shape) * self._dtype(key).itemsize
            self.tensors[key] = TensorInfo(_DTYPE_NAMES[self._dtype(key)], shape, start, end)

    def __iter__(self) -> Iterator[memoryview]:
        """The bytes of each tensor in order; raises LoRA2Error for NaN, infinity and overflow."""
        for key in self.tensors:
            tensor = self._source[key].detach()
            if key in self._factors:
                tensor = tensor.double() * self._factors[key]  # rounded once, when it is stored
            stored = tensor.to("cpu", self._dtype(key)).contiguous()
            if not torch.isfinite(stored).all():
                raise self._not_finite(key)
            yield memoryview(stored.reshape(-1).view(torch.uint8).numpy())

    def sha256(self) -> str:
        """Of all tensor bytes, as kohya's tools and ModelSpec define a model's hash."""
        digest = hashlib.sha256()
        for data in self:
            digest.update(data)
        return digest.hexdigest()

    def _dtype(self, key: str) -> torch.dtype:
        if key.endswith(_SHAPES):
            return torch.int64
        if key.endswith(".alpha"):
            return torch.float32
        own = self._source[key]
        return PRECISIONS[self._precision] if own.is_floating_point() else own.dtype

    def _not_finite(self, key: str) -> LoRA2Error:
        name = owner(key) or shown(key)
        tensor = self._source[key]
        if not torch.isfinite(tensor).all():
            return LoRA2Error(
                f"component {name} holds NaN or infinite values ({shown(key)}); train again with a "
                "lower learning rate, or in bf16 or fp32"
            )
        largest = float(tensor.detach().double().abs().max()) * abs(self._factors.get(key, 1.0))
        way_out = "save in bf16 or fp32" if self._precision == "fp16" else "scale it down first"
        return LoRA2Error(
            f"component {name} has values up to {largest:.3g} ({shown(key)}), beyond the range of "
            f"{self._precision}; {way_out}"
        )


def _balanced(
    state: Mapping[str, Tensor], precision: str
) -> tuple[Mapping[str, Tensor], dict[str, float]]:
    """(tensors with one alpha for all components, multipliers of the factors that keep ΔW).

    Components of other kinds, what lies beside components, and adapters in other names stay as
    they are.
    """
    try:
        listed, extras = contents(seen(state))
    except LoRA2Error:
        return state, {}
    listed = [stored for stored in listed if not stored.kind]
    # the bias of a factor is scaled as the factors are
    if not listed or any(extra.kind is FACTOR_BIAS for extra in extras):
        return state, {}
    if not all(stored.down.endswith(".lora_down.weight") for stored in listed):
        return state, {}
    found = alphas(state, listed)
    told = [found[s.name] if found[s.name] is not None else float(s.rank) for s in listed]
    common = _common(told, {stored.rank for stored in listed})
    tensors, factors = dict(state), {}
    for stored, alpha in zip(listed, told, strict=True):
        tensors[f"{stored.name}.alpha"] = torch.tensor(common)
        if alpha != common:
            factors[stored.up] = alpha / common
        if precision == "fp16":
            factors |= _shifted(state, stored, factors.get(stored.up, 1.0))
    return tensors, factors


def _common(alphas: Sequence[float], ranks: Collection[int]) -> float:
    """The alpha of all components, which costs the fewest of them a rounding.

    1 where ranks differ. Where they do not, as in an expanded adapter, an alpha that occurs: of
    those that differ by powers of two, which the factors take over exactly, the most frequent kind,
    and of it the smallest, so that no factor becomes smaller.
    """
    if len(set(alphas)) == 1:
        return alphas[0]
    if len(ranks) > 1:
        return 1.0

    def kind(alpha: float) -> float:
        return abs(math.frexp(alpha)[0])

    kinds = Counter(kind(alpha) for alpha in alphas if alpha)
    # of several the one of the shortest number, which fp32 rather holds as it was meant
    chosen = max(kinds, key=lambda one: (kinds[one], -one.as_integer_ratio()[0]))
    return min(abs(alpha) for alpha in alphas if alpha and kind(alpha) == chosen)


def _shifted(state: Mapping[str, Tensor], stored: Stored, factor: float) -> dict[str, float]:
    """Multipliers that keep a tiny factor out of fp16's subnormals, and a large one in its range.

    ΔW is a product, so that one factor may hand size to the other; a power of two does so exactly.
    Only pairs that would suffer are touched.
    """
    down, up = state[stored.down].detach().float(), state[stored.up].detach().double() * factor
    if survives_fp16(down) and survives_fp16(up):
        return {}
    largest = float(down.abs().max()), float(up.abs().max())
    if not all(0 < size < math.inf for size in largest):
        return {}
    shift = round((math.log2(largest[1]) - math.log2(largest[0])) / 2)
    return {stored.down: 2.0**shift, stored.up: factor * 2.0**-shift}


def survives_fp16(tensor: Tensor) -> bool:
    """Whether a factor keeps its digits in fp16: none of weight is too small or too large."""
    lost = _norm(tensor.half().float() - tensor)
    return lost <= _PLAIN_ROUNDING * _norm(tensor)


def _norm(tensor: Tensor) -> float:
    """In fp64: squares of what fp32 holds may be beyond it."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
