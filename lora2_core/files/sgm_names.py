"""Names of a UNet's modules as single-file checkpoints have them.

diffusers counts blocks by level (`down_blocks.1.attentions.0`), the original UNet counts through
(`input_blocks.4.1`). Adapter files use the latter, which every loader understands.
"""

import re

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
PLAIN = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(
    r"(?P<path>down_blocks|up_blocks|mid_block)\.(?:(?P<level>\d+)\.)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d+)\.(?P<rest>.+)"
)


def sgm_name(name: str, layers_per_block: int, attention_levels: tuple[bool, ...]) -> str:
    """The original UNet's name for module `name` of a diffusers UNet.

    layers_per_block: residual blocks a level on the way down (one more on the way up).
    attention_levels: whether each up level, in forward order, has attention.
    Raises ValueError for a name that no such UNet has.
    """
    if name in PLAIN:
        return PLAIN[name]
    match = _BLOCK.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is not a module of a UNet2DConditionModel")
    path, kind, rest = match["path"], match["kind"], match["rest"]
    level, index = int(match["level"] or 0), int(match["index"])
    if kind == "resnets":
        head, _, tail = rest.partition(".")
        rest = _RESNET[head] + (f".{tail}" if tail else "")
    if path == "mid_block":
        slot = 1 if kind == "attentions" else 2 * index
        return f"middle_block.{slot}.{rest}"
    step = layers_per_block + 1
    if path == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{step * (level + 1)}.0.op"
        slot = 1 if kind == "attentions" else 0
        return f"input_blocks.{step * level + index + 1}.{slot}.{rest}"
    if kind == "upsamplers":
        slot = 2 if attention_levels[level] else 1
        return f"output_blocks.{step * level + layers_per_block}.{slot}.{rest}"
    slot = 1 if kind == "attentions" else 0
    return f"output_blocks.{step * level + index}.{slot}.{rest}"
