"""AdamW with moments in 8 bits."""

import torch
from torch import Tensor, nn

from ..errors import importing
from .pieces import RowPieces, State

_BLOCK = 256  # numbers that share a scale in bitsandbytes


class RowAdamW8bit(RowPieces):
    """bitsandbytes' AdamW8bit (arXiv 2110.02861): a quarter of the memory of AdamW's moments.

    Every piece counts its own steps, as in AdamW. A piece of less than 4096 numbers keeps moments
    in fp32. Where a piece is cut within a block of 256 numbers that share a scale, the block and,
    in the second part, those behind it are quantised again: these rows keep their moments to 8
    bits, all others exactly. SDXL's layers are 1280 or 2048 wide for the most part, which are
    whole blocks.
    """

    @staticmethod
    def make(
        parameters: list[nn.Parameter], learning_rate: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        with importing("bitsandbytes", "optimizer is adamw8bit", "choose adamw"):
            from bitsandbytes.optim import AdamW8bit
        return AdamW8bit(parameters, lr=learning_rate, weight_decay=weight_decay)

    def cut(self, state: State, rows: int, at: int) -> tuple[State, State]:
        low, high = dict(state), dict(state)
        for number in "12":
            name = f"state{number}"
            if state[name].dtype == torch.float32:
                low[name], high[name] = (
                    part.clone() for part in state[name].split([at, rows - at])
                )
                continue
            codes, scales = state[name], state[f"absmax{number}"]
            table = state[f"qmap{number}"]
            (low[name], low[f"absmax{number}"]), (high[name], high[f"absmax{number}"]) = _cut(
                codes, scales, table, at
            )
        return low, high

    def pack(self, state: State) -> State:
        return {name: value for name, value in state.items() if not name.startswith("qmap")}

    def unpack(self, state: State) -> State:
        for number, table in (("1", "dynamic"), ("2", "udynamic")):
            name = f"state{number}"
            if name in state and state[name].dtype == torch.uint8:
                # the library's own table of what each code stands for
                state[f"qmap{number}"] = self.inner.name2qmap[table].to(state[name].device)
        return state


def _cut(
    codes: Tensor, scales: Tensor, table: Tensor, at: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(codes, scales) of the first `at` rows and of the others. codes: [rows, k]; scales: one a
    block of the flattened codes.
    """
    from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

    width = codes.shape[1]
    place = at * width
    whole = place // _BLOCK
    if place % _BLOCK == 0:
        low = codes[:at].clone(), scales[:whole].clone()
        return low, (codes[at:].clone(), scales[whole:].clone())
    values = dequantize_blockwise(codes, absmax=scales, code=table, blocksize=_BLOCK)
    found = []
    for part in (values[:at], values[at:]):
        again, how = quantize_blockwise(part.contiguous(), code=table, blocksize=_BLOCK)
        found.append((again, how.absmax))
    low_codes, low_scales = found[0]
    low_codes.view(-1)[: whole * _BLOCK] = codes.view(-1)[: whole * _BLOCK]
    low_scales[:whole] = scales[:whole]
    return found[0], found[1]
