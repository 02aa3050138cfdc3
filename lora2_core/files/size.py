"""How large an adapter's file will be, before there is one."""

from collections.abc import Mapping, Sequence
from math import prod

from .header import TensorInfo, encode_header

_ADDED = 400  # bytes that writing adds to the metadata: two hashes, a title
_NOTED = 20  # bytes around a component's name and numbers in the note of effects


def overhead(
    components: Mapping[str, tuple[Sequence[int], int]],
    metadata: Mapping[str, str],
    beside: Mapping[str, tuple[Sequence[int], int]] | None = None,
) -> int:
    """Bytes of the file beside the factors, at the most: header, alphas, and what lies beside.

    components: name in the file → (weight shape [m, n…], the rank that it may have). beside: key →
    (shape, bytes a number) of other tensors.
    """
    tensors, end, others = {}, 0, 0
    for name, (shape, rank) in components.items():
        for key, size in (
            (f"{name}.alpha", ()),
            (f"{name}.lora_down.weight", (rank, *shape[1:])),
            (f"{name}.lora_up.weight", (shape[0], rank, *(1 for _ in shape[2:]))),
        ):
            start, end = end, end + prod(size) * 4
            tensors[key] = TensorInfo("BF16", tuple(size), start, end)
    for key, (size, itemsize) in (beside or {}).items():
        start, end = end, end + prod(size) * itemsize
        others += end - start
        tensors[key] = TensorInfo("BF16", tuple(size), start, end)
    head = len(encode_header(tensors, dict(metadata)))
    return head + others + 4 * len(components) + _ADDED


def component_bytes(name: str, shape: Sequence[int], rank: int, noted_as: str) -> int:
    """Of all that a component has in the file beside its rows, at the most: its tensors' names, its
    alpha, its place in the note of effects under the name `noted_as`.

    name: in the file. shape: of its weight, [m, n…]. rank: the highest that it may have.
    """
    return overhead({name: (shape, rank)}, {}) - overhead({}, {}) + len(noted_as) + _NOTED
