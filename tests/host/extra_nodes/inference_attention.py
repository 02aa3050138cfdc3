"""A host started with another attention kernel, and what training's own makes of the same input."""

import sys

import comfy.clip_model as clip
import comfy.ldm.modules.attention as attention
import torch


def _plain(q, k, v, heads, mask=None, **more):
    return attention.attention_pytorch(q, k, v, heads, mask, **more)


def _cut(q, k, v, heads, mask=None, **more):
    """As SageAttention: right, and without a gradient."""
    return _plain(q.detach(), k.detach(), v.detach(), heads, mask, **more)


@torch.library.custom_op("lora2_test::flash", mutates_args=())
def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    return _plain(q, k, v, heads).clone()


_flash.register_fake(lambda q, k, v, heads: torch.empty_like(q))


def _raising(q, k, v, heads, mask=None, **more):
    """As the host's FlashAttention: an operation without an autograd formula."""
    return _flash(q, k, v, heads)


_BEFORE = attention.optimized_attention, attention.optimized_attention_masked
_FOR_DEVICE = clip.optimized_attention_for_device
# `outside` and `raising` are not asked for by wrap_attn, as a node that replaces functions might be
KERNELS = {
    "cut": attention.wrap_attn(_cut), "outside": _cut, "raising": _raising,
}  # fmt: skip


class InferenceAttention:
    """host: as it was started. theirs: training uses the host's, too, and not its own."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "switch", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        kinds = ["host", "theirs", *KERNELS]
        return {"required": {"kernel": (kinds,), "again": ("INT", {})}}

    def switch(self, kernel, again):
        chosen = KERNELS.get(kernel)
        both = (chosen, chosen) if chosen else _BEFORE
        attention.optimized_attention, attention.optimized_attention_masked = both
        clip.optimized_attention_for_device = (lambda *_, **__: chosen) if chosen else _FOR_DEVICE
        ours, model = _module("attention"), _module("model")
        model.with_gradient = _pass_on if kernel == "theirs" else ours.with_gradient
        return {"ui": {"text": [kernel]}}


def _pass_on(kernel, *args, **options):
    return kernel(*args, **options)


def _module(name):
    [found] = [m for n, m in sys.modules.items() if n.endswith(f"nodes.host.{name}")]
    return found


class AttentionTwins:
    """How far training's attention lies from each of the host's, over what those take."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "compare", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"again": ("INT", {})}}

    def compare(self, again):
        generator = torch.Generator().manual_seed(again)
        told = []
        names = ("basic", "sub_quad", "split", "pytorch")
        kernels = {name: getattr(attention, f"attention_{name}") for name in names}
        with torch.inference_mode(False), torch.no_grad():
            for name, theirs in kernels.items():
                told += [f"{name} {_apart(theirs, generator, *case)}" for case in CASES]
        return {"ui": {"text": told}}


# mask's shape, or None; skip_reshape; skip_output_reshape; attn_precision; scale; type
CASES = [
    (None, False, False, None, None, torch.float32),
    (None, False, True, None, None, torch.float32),
    (None, True, False, None, None, torch.float32),
    (None, True, True, torch.float32, 0.3, torch.float32),
    ((5, 9), False, False, None, None, torch.float32),
    ((2, 5, 9), False, False, None, None, torch.float32),
    (None, False, False, torch.float32, None, torch.bfloat16),
    ((5, 9), False, False, torch.float32, None, torch.bfloat16),
]


def _apart(theirs, generator, mask, skip, skip_output, precision, scale, dtype):
    heads, width = 4, 16

    def drawn(count):
        shape = (2, heads, count, width) if skip else (2, count, heads * width)
        return torch.randn(shape, generator=generator).to(dtype)

    q, k, v = drawn(5), drawn(9), drawn(9)
    if mask is not None:
        mask = torch.randn(mask, generator=generator).to(dtype)
    more = {} if scale is None else {"scale": scale}
    asked = {"skip_reshape": skip, "skip_output_reshape": skip_output, "attn_precision": precision}

    def options():
        return {"transformer_options": {"optimized_attention_override": ours}}

    ours = _module("attention").with_gradient
    expected = theirs(q, k, v, heads, mask, **asked, **more).float()
    got = theirs(q, k, v, heads, mask, **asked, **more, **options()).float()
    if got.shape != expected.shape:
        return f"{tuple(got.shape)} for {tuple(expected.shape)}"
    return f"{dtype} {float((got - expected).norm() / expected.norm()):.1e}"


class AttentionGradient:
    """Whether the gradient of a prediction reaches a query, by the host's kernel and by ours."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "tell", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        kinds = {"model": "MODEL", "latents": "LATENT", "positive": "CONDITIONING"}
        return {"required": {name: (kind,) for name, kind in kinds.items()}}

    def tell(self, model, latents, positive):
        host = _module("model")
        [example] = host.examples(model, [latents], [positive], "latents")
        told = []
        with host.trainable(model, "fp32") as unet:
            for name, kernel in (("theirs", _pass_on), ("ours", host.with_gradient)):
                host.with_gradient, kept = kernel, host.with_gradient
                told.append(f"{name} {_reaches(unet, example)}")
                host.with_gradient = kept
        return {"ui": {"text": told}}


def _reaches(unet, example):
    query = next(m for n, m in unet.network.named_modules() if n.endswith("attn1.to_q"))
    probe = torch.zeros((), requires_grad=True)
    hook = query.register_forward_hook(lambda _, args, output: output + probe * output)
    time = torch.tensor([500])
    noisy = unet.corrupt(example.latent, torch.ones_like(example.latent), time)[0]
    out = unet.predict(noisy, time, example.conditioning)
    hook.remove()
    if not out.requires_grad:
        return False
    out.square().mean().backward()
    return probe.grad is not None and bool(probe.grad != 0)


NODE_CLASS_MAPPINGS = {
    "InferenceAttention": InferenceAttention, "AttentionTwins": AttentionTwins,
    "AttentionGradient": AttentionGradient,
}  # fmt: skip
