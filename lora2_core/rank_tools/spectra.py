"""The singular values of an adapter's components, computed when they are first asked for."""

from dataclasses import dataclass
from threading import Lock

from ..files.alphas import alphas
from ..layers.low_rank import rounding, singular_values
from ..layers.parallel import in_order
from .adapters import Adapter
from .cut import share_rank
from .split import decomposing

_SHARES = {"rank90": 0.9, "rank99": 0.99}


@dataclass(frozen=True)
class Spectrum:
    """sigma: falling, of ΔW at strength 1. size: ‖ΔW‖. rank90, rank99: the smallest rank that
    holds that share of the energy Σσ² (cut.share_rank). alpha: of the file, or None where it has
    none."""

    sigma: tuple[float, ...]
    alpha: float | None
    size: float
    rank90: int
    rank99: int


class Spectra:
    """Of one adapter; may be asked from several threads. names: of its components in the file."""

    def __init__(self, adapter: Adapter):
        self._adapter = adapter
        self._canonical = {stored.name: name for name, stored in adapter.components.items()}
        self._known: dict[str, Spectrum] = {}
        self._lock = Lock()
        self.names = list(self._canonical)

    def of(self, name: str) -> Spectrum:
        """Of the component of that name; raises KeyError if there is none."""
        canonical = self._canonical[name]
        if name not in self._known:
            factors = self._adapter.factors(canonical)
            with decomposing(f"{canonical} of {self._adapter.name}"):
                sigma = singular_values(*factors)
            energies, noise = sigma.square(), rounding(*factors)
            ranks = {key: share_rank(energies, share, noise) for key, share in _SHARES.items()}
            size = float(energies.sum().sqrt())
            stored = self._adapter.components[canonical]
            alpha = alphas(self._adapter.state, [stored])[stored.name]
            self._known[name] = Spectrum(tuple(sigma.tolist()), alpha, size, **ranks)
        return self._known[name]

    def all(self) -> dict[str, Spectrum]:
        """Of every component, on all cores; a second caller waits for the first."""
        with self._lock:
            return dict(zip(self.names, in_order(self.of, self.names), strict=True))
