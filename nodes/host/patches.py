"""Patches that a MODEL carries and that act only when the host samples with it."""

from collections.abc import Callable, Iterator, Mapping


def unseen(patcher) -> list[str]:
    """Names of what training does not see, as far as they can be told: of the node that made a
    patch, or of the patch.
    """
    options = dict(getattr(patcher, "model_options", None) or {})
    inner = options.pop("transformer_options", None) or {}
    found = [*_named(options), *_named(inner)]
    for registered in (getattr(patcher, "wrappers", None) or {}).values():
        found += [str(key) for key, calls in registered.items() if calls]
    if getattr(patcher, "hook_patches", None):
        found.append("hooks")
    return list(dict.fromkeys(found))


def _named(options: Mapping) -> Iterator[str]:
    for key, value in options.items():
        for name, call in _calls(str(key), value):
            yield _origin(name, call)


def _calls(name: str, value) -> Iterator[tuple[str, Callable]]:
    """Functions in nested lists and mappings, with the last word under which they lie."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _calls(key if isinstance(key, str) else name, inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _calls(name, inner)
    elif callable(value):
        yield name, value


def _origin(name: str, call: Callable) -> str:
    """A node's patch is a function within one of the node's methods."""
    owner = getattr(call, "__self__", None)
    if owner is not None:
        return (owner if isinstance(owner, type) else type(owner)).__name__
    words = getattr(call, "__qualname__", None)
    if words is None:
        return type(call).__name__
    first = words.partition(".")[0]
    return first if "." in words else name
