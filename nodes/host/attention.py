"""Attention that passes gradients on, whatever kernel the host was started with.

An inference kernel may cut the gradient without a word (SageAttention), or raise in the backward
pass (the host's FlashAttention). The host's `wrap_attn` asks the transformer options for another
one; its text encoders hand theirs from layer to layer.
"""

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

_PASSED_ON = ("scale", "enable_gqa")  # what torch's function calls the same


def differentiable_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **options,
) -> Tensor:
    """What the host's own kernels compute, and take, by torch's scaled_dot_product_attention.

    q, k, v: [b, n, heads·d], or [b, heads, n, d] with skip_reshape. mask: [n_q, n_k],
    [b, n_q, n_k] or [b, heads, n_q, n_k], added to the logits, or bool. Returns [b, n_q, heads·d],
    or [b, heads, n_q, d] with skip_output_reshape. attn_precision has no say: torch's kernels
    gather logits in fp32 in any case. options: of the host, such as scale.
    """
    if not skip_reshape:
        width = q.shape[-1] // heads
        q, k, v = (part.unflatten(-1, (-1, width)).transpose(1, 2) for part in (q, k, v))
    if mask is not None:
        if mask.dtype != torch.bool:
            mask = mask.to(q.dtype)
        mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
    chosen = {name: options[name] for name in _PASSED_ON if name in options}
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, **chosen)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def with_gradient(_, *args, **options) -> Tensor:
    """`optimized_attention_override` of the host's transformer options."""
    return differentiable_attention(*args, **options)


def keep_gradient(encoder: nn.Module, stack: ExitStack) -> None:
    """Has a text encoder's attention use it, too, where gradients are asked for, until the stack
    is closed.
    """
    for module in encoder.modules():
        if type(module).__name__ == "CLIPAttention":
            hook = module.register_forward_pre_hook(_ours, with_kwargs=True)
            stack.callback(hook.remove)


def _ours(_, args: tuple, options: dict) -> tuple[tuple, dict] | None:
    """x, mask, optimized_attention are what the host's CLIPAttention takes."""
    if not torch.is_grad_enabled():  # a preview's
        return None
    if len(args) > 2:
        return (*args[:2], differentiable_attention, *args[3:]), options
    return args, options | {"optimized_attention": differentiable_attention}
