"""Names and shapes of an SDXL-family UNet's weights, walked from its configuration.

Names are those of single-file checkpoints without their prefix `model.diffusion_model.`. Pure
Python: checkpoints for the host and counts for the core both come from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

PREFIX = "model.diffusion_model."

Shape = tuple[int, ...]


@dataclass(frozen=True)
class UNetConfig:
    """What tells one UNet of the family from another.

    depth_in has one entry a residual block of the input half, depth_out one of the output half,
    both in the order of the file: how many transformer blocks follow it. depth_middle is that of
    the middle block, or None where there is no middle block.
    """

    mult: tuple[int, ...]
    res_blocks: int
    depth_in: tuple[int, ...]
    depth_middle: int | None
    depth_out: tuple[int, ...]
    channels: int = 320
    context: int = 2048
    adm: int = 2816  # width of the pooled text and the six size and crop numbers
    latent: int = 4


SDXL = UNetConfig((1, 2, 4), 2, (0, 0, 2, 2, 10, 10), 10, (10, 10, 10, 2, 2, 2, 0, 0, 0))
KOALA_700M = UNetConfig((1, 2, 4), 1, (0, 2, 5), None, (5, 5, 2, 2, 0, 0))
# one width throughout: the host still takes them for KOALA-700M and SDXL
KOALA_SMALL = UNetConfig((1, 1, 1), 1, (0, 2, 5), None, (5, 5, 2, 2, 0, 0))
SDXL_SMALL = UNetConfig((1, 1, 1), 2, (0, 0, 2, 2, 10, 10), 10, (10, 10, 10, 2, 2, 2, 0, 0, 0))

PARAMETERS = {
    SDXL: 2_567_463_684,
    KOALA_700M: 782_822_724,
    KOALA_SMALL: 105_650_244,
    SDXL_SMALL: 282_911_684,
}


def unet_shapes(config: UNetConfig) -> dict[str, Shape]:
    """Every weight of the UNet, by name, in the order of the file."""
    shapes = dict(_unet(config))
    if config in PARAMETERS:
        assert parameters(shapes) == PARAMETERS[config]
    return shapes


def parameters(shapes: dict[str, Shape]) -> int:
    return sum(prod(shape) for shape in shapes.values())


def attention_shapes(config: UNetConfig) -> dict[str, Shape]:
    """The weights of to_q, to_k, to_v and to_out, self and cross: what is adapted by default."""
    ends = (".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight")
    return {name: shape for name, shape in unet_shapes(config).items() if name.endswith(ends)}


def _unet(c: UNetConfig) -> Iterator[tuple[str, Shape]]:
    emb = 4 * c.channels
    for name, width in (("time_embed.", c.channels), ("label_emb.0.", c.adm)):
        yield from _linear(f"{name}0", width, emb)
        yield from _linear(f"{name}2", emb, emb)

    yield from _conv("input_blocks.0.0", c.latent, c.channels, 3)
    ch, block, skips = c.channels, 1, [c.channels]
    depths = iter(c.depth_in)
    for level, mult in enumerate(c.mult):
        for _ in range(c.res_blocks):
            name, out = f"input_blocks.{block}.", mult * c.channels
            yield from _res(f"{name}0.", ch, out, emb)
            yield from _transformer(f"{name}1.", out, next(depths), c.context)
            ch, block, skips = out, block + 1, [*skips, out]
        if level < len(c.mult) - 1:
            yield from _conv(f"input_blocks.{block}.0.op", ch, ch, 3)
            block, skips = block + 1, [*skips, ch]

    if c.depth_middle is not None:
        yield from _res("middle_block.0.", ch, ch, emb)
        yield from _transformer("middle_block.1.", ch, c.depth_middle, c.context)
        yield from _res("middle_block.2.", ch, ch, emb)

    block, depths = 0, iter(c.depth_out)
    for level, mult in reversed(list(enumerate(c.mult))):
        for i in range(c.res_blocks + 1):
            name, out, depth = f"output_blocks.{block}.", mult * c.channels, next(depths)
            yield from _res(f"{name}0.", ch + skips.pop(), out, emb)
            yield from _transformer(f"{name}1.", out, depth, c.context)
            if level and i == c.res_blocks:
                yield from _conv(f"{name}{1 + (depth > 0)}.conv", out, out, 3)
            ch, block = out, block + 1

    yield from _norm("out.0", ch)
    yield from _conv("out.2", c.channels, c.latent, 3)


def _res(name: str, ch: int, out: int, emb: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}in_layers.0", ch)
    yield from _conv(f"{name}in_layers.2", ch, out, 3)
    yield from _linear(f"{name}emb_layers.1", emb, out)
    yield from _norm(f"{name}out_layers.0", out)
    yield from _conv(f"{name}out_layers.3", out, out, 3)
    if ch != out:
        yield from _conv(f"{name}skip_connection", ch, out, 1)


def _transformer(name: str, ch: int, depth: int, context: int) -> Iterator[tuple[str, Shape]]:
    if depth == 0:
        return
    yield from _norm(f"{name}norm", ch)
    yield from _linear(f"{name}proj_in", ch, ch)
    for i in range(depth):
        block = f"{name}transformer_blocks.{i}."
        for attention, width in (("attn1", ch), ("attn2", context)):
            yield f"{block}{attention}.to_q.weight", (ch, ch)
            yield f"{block}{attention}.to_k.weight", (ch, width)
            yield f"{block}{attention}.to_v.weight", (ch, width)
            yield from _linear(f"{block}{attention}.to_out.0", ch, ch)
        yield from _linear(f"{block}ff.net.0.proj", ch, 8 * ch)  # GEGLU: twice four times
        yield from _linear(f"{block}ff.net.2", 4 * ch, ch)
        for norm in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{block}{norm}", ch)
    yield from _linear(f"{name}proj_out", ch, ch)


def _linear(name: str, width: int, out: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, width)
    yield f"{name}.bias", (out,)


def _conv(name: str, ch: int, out: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, ch, kernel, kernel)
    yield f"{name}.bias", (out,)


def _norm(name: str, ch: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (ch,)
    yield f"{name}.bias", (ch,)
