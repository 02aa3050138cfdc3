"""Small denoisers that meet lora2_core.denoiser.Denoiser, for tests on the CPU."""

import torch
from torch import nn


class ToyAttention(nn.Module):
    """Attention with the names that diffusers and the original UNet share."""

    def __init__(self, width, context_width, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width, bias=False), nn.Dropout(0.0)])

    def forward(self, x, context=None):
        context = x if context is None else context
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class ToyBlock(nn.Module):
    def __init__(self, width, context_width, heads):
        super().__init__()
        self.attn1 = ToyAttention(width, width, heads)
        self.attn2 = ToyAttention(width, context_width, heads)

    def forward(self, x, context):
        x = x + self.attn1(x)
        return x + self.attn2(x, context)


class ToyNetwork(nn.Module):
    """Pixels as tokens, a few transformer blocks, no norm: every gradient is easy to follow."""

    def __init__(self, channels=4, width=16, context_width=12, heads=2, blocks=2):
        super().__init__()
        self.proj_in = nn.Linear(channels, width, bias=False)
        self.time = nn.Parameter(torch.randn(width))
        self.blocks = nn.ModuleList(ToyBlock(width, context_width, heads) for _ in range(blocks))
        self.proj_out = nn.Linear(width, channels, bias=False)

    def forward(self, noisy, t, context):
        b, c, h, w = noisy.shape
        x = self.proj_in(noisy.flatten(2).transpose(1, 2))
        x = x + (t.to(x.dtype) / 10.0)[:, None, None] * self.time
        for block in self.blocks:
            x = block(x, context)
        return self.proj_out(x).transpose(1, 2).reshape(b, c, h, w)


class ToyDenoiser:
    """ToyNetwork with a short linear schedule and ε prediction."""

    dtype = torch.float32
    timesteps = 10
    predicts_v = False

    def __init__(self, seed=0, **sizes):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = ToyNetwork(**sizes).requires_grad_(False)
        self.blocks = list(self.network.blocks)
        self.device = torch.device("cpu")

    def corrupt(self, latents, noise, t):
        mix = (t.to(latents.dtype) / self.timesteps).view(-1, 1, 1, 1)
        return (1 - mix) * latents + mix * noise, noise

    def snr(self, t):
        mix = t.float() / self.timesteps
        return ((1 - mix) / mix) ** 2

    def predict(self, noisy, t, conditioning):
        return self.network(noisy, t, conditioning["context"])

    def module_name(self, name):
        return f"toy.{name}"


class SilentDenoiser(ToyDenoiser):
    """The prediction hangs on the adapters with gradient exactly zero: only other terms act."""

    def predict(self, noisy, t, conditioning):
        return super().predict(noisy, t, conditioning) * 0.0
