"""The nodes: thin V3 classes over lora2_core. Ids are for ever; shared workflows carry them."""

from comfy_api.latest import ComfyExtension, io

from .compress import LoRA2Compress
from .demo_model import LoRA2DemoModel
from .demo_pictures import LoRA2DemoPictures
from .expand import LoRA2ExpandRanks
from .heatmap import LoRA2RankHeatmap
from .load import LoRA2Load
from .merge import LoRA2Merge
from .options import LoRA2Options
from .pick import LoRA2Pick
from .preview import LoRA2Preview
from .rank_map import LoRA2RankMap
from .save import LoRA2Save
from .train import LoRA2Train


class LoRA2Extension(ComfyExtension):
    """What the host loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoRA2Train,
            LoRA2Options,
            LoRA2Save,
            LoRA2Load,
            LoRA2Pick,
            LoRA2Merge,
            LoRA2Compress,
            LoRA2ExpandRanks,
            LoRA2RankHeatmap,
            LoRA2RankMap,
            LoRA2DemoModel,
            LoRA2DemoPictures,
            LoRA2Preview,
        ]
