"""What can be done with finished adapters of any ranks: expand, merge, compress.

Components are worked on a few at a time, read from their files when they are needed.
"""

from .adapters import Adapter, factorised, open_adapter
from .blocks import BlockStrengths, parse_blocks
from .compress import compress
from .cut import Cut
from .expand import expand
from .merge import Ingredient, merge
from .outcome import Outcome
from .spectra import Spectra, Spectrum

__all__ = [
    "Adapter",
    "BlockStrengths",
    "Cut",
    "Ingredient",
    "Outcome",
    "Spectra",
    "Spectrum",
    "compress",
    "expand",
    "factorised",
    "merge",
    "open_adapter",
    "parse_blocks",
]
