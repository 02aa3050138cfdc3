"""How large an adapter's file will be, before there is one."""

from collections.abc import Mapping, Sequence
from math import prod

from .header import TensorInfo, encode_header

_ADDED = 400  # bytes that writing adds to the metadata: two hashes, a title


def overhead(
    components: Mapping[str, tuple[Sequence[int], int]], metadata: Mapping[str, str]
) -> int:
    """Bytes of the file beside the factors, at the most: header and alphas.

    components: name in the file → (weight shape [m, n…], the rank that it may have).
    """
    tensors, end = {}, 0
    for name, (shape, rank) in components.items():
        for key, size in (
            (f"{name}.alpha", ()),
            (f"{name}.lora_down.weight", (rank, *shape[1:])),
            (f"{name}.lora_up.weight", (shape[0], rank, *(1 for _ in shape[2:]))),
        ):
            start, end = end, end + prod(size) * 4
            tensors[key] = TensorInfo("BF16", tuple(size), start, end)
    return len(encode_header(tensors, dict(metadata))) + 4 * len(components) + _ADDED
