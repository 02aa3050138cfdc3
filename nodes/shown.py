"""What the viewer shows and may ask for more of: the last adapters, under tokens."""

from collections import OrderedDict
from dataclasses import asdict
from secrets import token_urlsafe
from threading import Lock

from ..lora2_core.files.lazy import LazyState
from ..lora2_core.rank_tools import Adapter
from ..lora2_core.rank_tools.spectra import Spectra

_MOST = 64  # adapters; an older picture can no longer ask
_MOST_BYTES = 1_000_000_000  # of those that are not files; the newest is kept in any case


class Shown:
    """Token → spectra of an adapter. Files stay on disk; an adapter on a wire is kept in memory."""

    def __init__(self):
        self._shown: OrderedDict[str, tuple[Spectra, int]] = OrderedDict()
        self._lock = Lock()

    def add(self, adapter: Adapter) -> str:
        token = token_urlsafe(12)
        with self._lock:
            self._shown[token] = Spectra(adapter), _held(adapter)
            while len(self._shown) > 1 and self._too_much():
                self._shown.popitem(last=False)
        return token

    def _too_much(self) -> bool:
        held = sum(size for _, size in self._shown.values())
        return len(self._shown) > _MOST or held > _MOST_BYTES

    def component(self, token: str, index: int) -> dict | None:
        """Spectrum of the component of that number in the report, or None if it is gone."""
        spectra, _ = self._shown.get(token, (None, 0))
        if spectra is None or not 0 <= index < len(spectra.names):
            return None
        return asdict(spectra.of(spectra.names[index]))

    def summary(self, token: str) -> dict[str, list] | None:
        """{"size", "rank90", "rank99"}: one value a component, in the report's order."""
        spectra, _ = self._shown.get(token, (None, 0))
        if spectra is None:
            return None
        known = spectra.all()
        found = [known[name] for name in spectra.names]
        return {key: [getattr(one, key) for one in found] for key in ("size", "rank90", "rank99")}


def _held(adapter: Adapter) -> int:
    if isinstance(adapter.state, LazyState):
        return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in adapter.state.values())


shown = Shown()
