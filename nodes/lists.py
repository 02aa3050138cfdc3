"""For nodes that take some inputs as whole lists: all others come one after the other, as the host
goes through the lists of a node that takes none."""

from collections.abc import Collection, Iterable

from comfy_api.latest import io


def each(lists: dict, whole: Collection[str]) -> list[dict]:
    """The inputs of each run. lists: name → list of values, or a dict of such lists where sockets
    grow. whole: names of those that every run gets as a list; the last value of a list that is
    shorter than another comes again.
    """
    single = {name: found for name, found in lists.items() if name not in whole}
    given = {name: lists[name] for name in whole if name in lists}
    return [_at(single, index) | given for index in range(_length(single))]


def gathered(runs: Iterable[io.NodeOutput]) -> io.NodeOutput:
    """What the runs put out, each slot as a list, and their texts."""
    runs = list(runs)
    slots = zip(*(run.args for run in runs), strict=True)
    texts = [text for run in runs for text in run.ui["text"]]
    return io.NodeOutput(*map(list, slots), ui={"text": texts})


def _length(found) -> int:
    if isinstance(found, dict):
        return max((_length(inner) for inner in found.values()), default=0)
    return 0 if found is None else len(found)


def _at(found, index: int):
    if isinstance(found, dict):
        return {name: _at(inner, index) for name, inner in found.items()}
    return None if found is None else found[min(index, len(found) - 1)]
