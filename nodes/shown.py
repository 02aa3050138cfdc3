"""What the viewer shows and may ask for more of: the last adapters, under tokens."""

from collections import OrderedDict
from dataclasses import asdict
from secrets import token_urlsafe
from threading import Lock

from ..lora2_core.rank_tools import Adapter, Spectra

_MOST = 16  # adapters; an older picture can no longer ask


class Shown:
    """Token → spectra of an adapter. Files stay on disk; an adapter on a wire is kept in memory."""

    def __init__(self):
        self._spectra: OrderedDict[str, Spectra] = OrderedDict()
        self._lock = Lock()

    def add(self, adapter: Adapter) -> str:
        token = token_urlsafe(12)
        with self._lock:
            self._spectra[token] = Spectra(adapter)
            while len(self._spectra) > _MOST:
                self._spectra.popitem(last=False)
        return token

    def component(self, token: str, index: int) -> dict | None:
        """Spectrum of the component of that number in the report, or None if it is gone."""
        spectra = self._spectra.get(token)
        if spectra is None or not 0 <= index < len(spectra.names):
            return None
        return asdict(spectra.of(spectra.names[index]))

    def summary(self, token: str) -> list[dict] | None:
        """size, rank90 and rank99 of every component, in the report's order."""
        spectra = self._spectra.get(token)
        if spectra is None:
            return None
        found = spectra.all()
        return [
            {"size": s.size, "rank90": s.rank90, "rank99": s.rank99}
            for s in (found[name] for name in spectra.names)
        ]


shown = Shown()
