"""Values of the host's own types, for what a node puts out."""

import numpy as np
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from torch import Tensor


def nothing() -> ExecutionBlocker:
    """An output that is not there: nodes behind it do not run, without an error."""
    return ExecutionBlocker(None)


def image(picture: Image.Image) -> Tensor:
    """An RGB picture as the host's IMAGE [1, h, w, 3] in 0..1."""
    return torch.from_numpy(np.array(picture))[None].float() / 255
