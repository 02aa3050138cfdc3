"""A finished adapter, its components under names that all adapters share."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..files.adapter_file import load_factors
from ..files.lazy import LazyState
from ..files.metadata import read_peft_note
from ..files.module_names import architecture, canonical_names
from ..files.stored import Stored, seen, stored_components
from ..signs import readable
from .split import Split, split


@dataclass(frozen=True)
class Adapter:
    """name: for messages and metadata. components: canonical name → where its tensors are.

    splits: how of a cut → component → its directions, where they are kept in memory.
    """

    name: str
    state: Mapping[str, Tensor]
    components: Mapping[str, Stored]
    architecture: str | None
    splits: Mapping[str, Mapping[str, Split]] = field(default_factory=dict)

    @property
    def metadata(self) -> Mapping[str, str]:
        return getattr(self.state, "metadata", {})

    def known(self, component: str, how: str) -> Split | None:
        """A component's directions, if they are kept."""
        return self.splits.get(how, {}).get(component)

    def factors(self, component: str) -> tuple[Tensor, Tensor]:
        """(up [m, r], down [r, n]) in fp32, the scale in up; n is in·k·k for a convolution.

        Raises LoRA2Error, naming the component, for NaN and infinity.
        """
        stored = self.components[component]
        loaded = load_factors(self.state, stored, read_peft_note(self.metadata))
        up = loaded.up.float().flatten(1) * loaded.scale
        down = loaded.down.float().flatten(1)
        if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
            raise LoRA2Error(
                f"{component} of {self.name} holds NaN or infinity; save that LoRA again"
            )
        return up, down


def open_adapter(source: str | os.PathLike | Mapping[str, Tensor], name: str = "") -> Adapter:
    """From a file, of which the header alone is read now, or from an adapter in memory.

    Raises LoRA2Error for what adapter_file.components refuses.
    """
    if not isinstance(source, Mapping):
        path = Path(source)
        return _adapter(name or readable(path.name), LazyState(path))
    return _adapter(name or "the adapter on the wire", source)


def factorised(
    adapter: Adapter, how: str, on_component: Callable[[int, int], None] | None = None
) -> Adapter:
    """The same with its directions in memory, so that one cut after the other is quick.

    They take as much as the file itself if that is in half precision.
    """
    kept = {}
    for name, stored in adapter.components.items():
        narrow = adapter.state[stored.down].element_size() <= 2
        dtype = torch.float16 if narrow else torch.float32  # balanced factors fit well
        kept[name] = split(*adapter.factors(name), how).mixed(dtype)
        if on_component is not None:
            on_component(len(kept), len(adapter.components))
    return replace(adapter, splits={**adapter.splits, how: kept})


def _adapter(name: str, state: Mapping[str, Tensor]) -> Adapter:
    try:
        listed = stored_components(seen(state))
        shapes = {stored.name: stored.shape for stored in listed}
        names = canonical_names(shapes)
    except LoRA2Error as error:
        raise LoRA2Error(f"{name}: {error}") from error
    components = {names[stored.name]: stored for stored in listed}
    return Adapter(name, state, components, architecture(shapes))
