"""What the network is to learn: the prediction loss."""

from torch import Tensor
from torch.nn import functional as F


def prediction_loss(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error in the model's own prediction space [LoRA², eq. 11], in fp32.

    prediction, target: [b, …]. weights: [b], of each image's own mean.
    """
    if weights is None:
        return F.mse_loss(prediction.float(), target.float())
    errors = F.mse_loss(prediction.float(), target.float(), reduction="none")
    return (weights * errors.flatten(1).mean(1)).mean()
