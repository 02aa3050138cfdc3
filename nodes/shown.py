"""What the viewer shows and may ask for more of: the last adapters, under tokens."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from secrets import token_urlsafe
from threading import Lock
from typing import NamedTuple

from ..lora2_core.files.lazy import LazyState
from ..lora2_core.rank_tools import Adapter
from ..lora2_core.rank_tools.spectra import Spectra

_MOST = 64  # adapters; an older picture can no longer ask
_MOST_BYTES = 1_000_000_000  # of those that are not files; the newest is kept in any case
_SUMMARY = ("size", "rank90", "rank99")


class _One(NamedTuple):
    """names: of the report's components, in its order; those of rank 0 have no spectrum. held:
    bytes in memory."""

    spectra: Spectra
    names: list[str]
    held: int


class Shown:
    """Token → spectra of an adapter. Files stay on disk; an adapter on a wire is kept in memory."""

    def __init__(self):
        self._shown: OrderedDict[str, _One] = OrderedDict()
        self._lock = Lock()

    def add(self, adapter: Adapter, report: Mapping) -> str:
        """report: of the adapter (rank_report.report); the page asks by its components' numbers."""
        token = token_urlsafe(12)
        names = [row["name"] for row in report["components"]]
        with self._lock:
            self._shown[token] = _One(Spectra(adapter), names, _held(adapter))
            while len(self._shown) > 1 and self._too_much():
                self._shown.popitem(last=False)
        return token

    def _too_much(self) -> bool:
        held = sum(one.held for one in self._shown.values())
        return len(self._shown) > _MOST or held > _MOST_BYTES

    def component(self, token: str, index: int) -> dict | None:
        """Spectrum of the component of that number in the report; None if it is gone, or of
        rank 0."""
        one = self._shown.get(token)
        if one is None or not 0 <= index < len(one.names):
            return None
        name = one.names[index]
        return asdict(one.spectra.of(name)) if name in one.spectra.names else None

    def summary(self, token: str) -> dict[str, list] | None:
        """{"size", "rank90", "rank99"}: one value a component, in the report's order; None for one
        of rank 0."""
        one = self._shown.get(token)
        if one is None:
            return None
        known = one.spectra.all()
        found = [known.get(name) for name in one.names]
        return {key: [getattr(of, key, None) for of in found] for key in _SUMMARY}


def _held(adapter: Adapter) -> int:
    if isinstance(adapter.state, LazyState):
        return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in adapter.state.values())


shown = Shown()
