"""What can be done with finished adapters of any ranks: expand, merge, compress.

Components are worked on a few at a time, read from their files when they are needed.
"""

from .adapters import Adapter, open_adapter
from .compress import compress
from .cut import Cut
from .cut_merged import cut_merged
from .expand import expand
from .merge import Ingredient, merge

__all__ = [
    "Adapter",
    "Cut",
    "Ingredient",
    "compress",
    "cut_merged",
    "expand",
    "merge",
    "open_adapter",
]
