"""The prediction loss against its equation."""

import torch

from lora2_core.diffusion.loss import prediction_loss


def test_prediction_loss_is_the_mean_square_in_fp32_for_half_inputs():
    prediction = torch.full((2, 3), 300.0, dtype=torch.float16)  # its square is past fp16
    target = torch.zeros(2, 3, dtype=torch.float16)
    loss = prediction_loss(prediction, target)
    assert loss.dtype == torch.float32 and float(loss) == 90_000.0
