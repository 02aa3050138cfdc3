"""Adafactor: second moments as the product of one number a row and one a column."""

import torch
from torch import nn

from ..errors import importing
from .pieces import RowPieces, State


class RowAdafactor(RowPieces):
    """transformers' Adafactor (arXiv 1804.04235) at the learning rate of the run, without momentum.

    The number of a row goes where the row goes. Those of the columns are means over the rows of a
    piece, and no row's own: a piece that is cut leaves both parts with the means of the whole, and
    each goes on from there by itself. A new row has means of its own, which begin with its first
    gradient. The paper's clip of an update to a root mean square of 1 is over a piece.
    """

    @staticmethod
    def make(
        parameters: list[nn.Parameter], learning_rate: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        with importing("transformers", "optimizer is adafactor", "choose adamw"):
            # takes seconds, and most runs need none
            from transformers.optimization import Adafactor

        return Adafactor(
            parameters,
            lr=learning_rate,
            weight_decay=weight_decay,
            scale_parameter=False,
            relative_step=False,
        )

    def cut(self, state: State, rows: int, at: int) -> tuple[State, State]:
        return tuple(
            state
            | {
                "exp_avg_sq_row": state["exp_avg_sq_row"][part].clone(),
                "exp_avg_sq_col": state["exp_avg_sq_col"].clone(),
            }
            for part in (slice(at), slice(at, None))
        )

    def pack(self, state: State) -> State:
        # of the values themselves, and measured anew at every step
        return {name: value for name, value in state.items() if name != "RMS"}
