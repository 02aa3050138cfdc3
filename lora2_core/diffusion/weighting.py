"""How much the loss of an image counts at its noise level."""

import torch
from torch import Tensor


def min_snr_weights(snr: Tensor, gamma: float, predicts_v: bool) -> Tensor:
    """min-SNR-γ weights of the squared error (arXiv 2303.09556, section 3.4), in [0, 1] for ε.

    snr: [b]. For a prediction of x_0 the weight is min(SNR, γ). An error of ε is one of x_0 times
    √SNR, and one of v is one of x_0 times √(SNR + 1): the weights are min(SNR, γ)/SNR and
    min(SNR, γ)/(SNR + 1). Where SNR is 0 the first is 1, its limit.
    """
    if predicts_v:
        return snr.clamp(max=gamma) / (snr + 1)
    return torch.clamp(gamma / snr, max=1.0)
