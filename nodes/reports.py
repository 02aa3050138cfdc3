"""Rank reports of whatever a socket carries."""

from ..lora2_core.errors import LoRA2Error
from ..lora2_core.files.lazy import LazyState
from ..lora2_core.rank_tools import Adapter, Ingredient, open_adapter
from ..lora2_core.ranks import rank_report
from .host import folders


def file_adapter(name: str) -> Adapter:
    """A file of the loras folder."""
    return open_adapter(folders.lora_path(name), name)


def wired(source, title: str) -> Adapter | dict:
    """What a LORA_MODEL or a pick carries, or a rank report as it is."""
    if isinstance(source, Ingredient):
        return source.adapter
    if "components" in source and "totals" in source:
        if not source["components"]:
            raise LoRA2Error(
                "the connected rank report is of an adapter without factors (norms or biases "
                "alone), which has no ranks; connect another"
            )
        return source
    return open_adapter(source, title)


def report_of(adapter: Adapter) -> dict:
    """Of a file from its header alone: gigabytes take no longer."""
    if isinstance(adapter.state, LazyState):
        return rank_report.report_from_header(adapter.state.header)
    return rank_report.report(adapter.state)
