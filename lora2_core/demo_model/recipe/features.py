"""What the judges of drawn pictures see."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTHS = (3, 32, 64, 128, 192)


class Features(nn.Module):
    """Pictures [b, 3, 128, 128] in −1..1 to features [b, width]: mean and maximum over places."""

    width = 2 * _WIDTHS[-1]

    def __init__(self):
        super().__init__()
        layers = []
        for before, after in pairwise(_WIDTHS):
            layers += [
                nn.Conv2d(before, after, 3, 2, 1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, 1, 1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        seen = self.layers(F.avg_pool2d(pictures, 2))
        return torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1)
