"""min-SNR weights, for what the network predicts."""

import math

import pytest
import reference
import torch

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.diffusion.loss import prediction_loss
from lora2_core.diffusion.weighting import min_snr_weights

SNRS = [1e-4, 0.3, 1.0, 4.9, 5.0, 5.1, 900.0]


@pytest.mark.parametrize("predicts_v", [False, True])
def test_weights_are_those_of_the_paper(predicts_v):
    found = min_snr_weights(torch.tensor(SNRS), 5.0, predicts_v)
    wanted = [reference.min_snr_weight(snr, 5.0, predicts_v) for snr in SNRS]
    torch.testing.assert_close(found, torch.tensor(wanted))


@pytest.mark.parametrize("predicts_v", [False, True])
def test_without_noise_and_without_signal_they_stay_finite(predicts_v):
    found = min_snr_weights(torch.tensor([0.0, math.inf]), 5.0, predicts_v)
    assert found.tolist() == ([0.0, 0.0] if predicts_v else [1.0, 0.0])


def test_both_predictions_weigh_the_same_error_of_the_picture_alike():
    """The same wrong x_0, told as ε or as v, costs min(SNR, γ) times its square."""
    alpha = torch.tensor([0.99, 0.7, 0.2, 0.01])
    snr = alpha / (1 - alpha)
    wrong = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))  # in x_0
    signal, rest = alpha.sqrt()[:, None], (1 - alpha).sqrt()[:, None]
    as_noise = -signal / rest * wrong
    as_v = signal * as_noise - rest * wrong
    wanted = (snr.clamp(max=5) * wrong.square().mean(1)).mean()
    for error, predicts_v in ((as_noise, False), (as_v, True)):
        weights = min_snr_weights(snr, 5.0, predicts_v)
        found = prediction_loss(error, torch.zeros_like(error), weights)
        torch.testing.assert_close(found, wanted)


def test_equal_weights_of_one_are_the_plain_loss():
    one, other = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    plain = prediction_loss(one, other)
    torch.testing.assert_close(prediction_loss(one, other, torch.ones(3)), plain)
    alone = prediction_loss(one[1:2], other[1:2])
    picked = prediction_loss(one, other, torch.tensor([0.0, 3.0, 0.0]))
    torch.testing.assert_close(picked, alone)


def test_a_unets_ratio_is_that_of_what_it_corrupts():
    """From the variances that corrupt itself gives to signal and noise."""
    denoiser = DiffusersUNet.__new__(DiffusersUNet)
    alphas = torch.tensor([0.9, 0.5, 0.1])
    denoiser._alphas, denoiser.predicts_v = alphas, False
    t = torch.tensor([2, 0])
    one = torch.ones(2, 1, 1, 1)
    signal, _ = denoiser.corrupt(one, 0 * one, t)
    noise, _ = denoiser.corrupt(0 * one, one, t)
    ratio = (signal / noise).flatten() ** 2
    torch.testing.assert_close(denoiser.snr(t), ratio)
