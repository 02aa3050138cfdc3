"""Another library's optimiser over rows that come and go.

Rows that came together and were active in the same steps form a piece. The piece, and not a row,
owns the optimiser's state, whatever that is: an active piece is one parameter of the optimiser, a
dormant one lies by with its state. A piece is cut in two where a rank comes to lie within it, and a
new row begins in a new piece, without a state.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..layers.adapter import Adapter, Rows
from .rows import RowOptimizer

State = dict[str, Tensor | int]


@dataclass
class Piece:
    """Rows start..stop of one factor. state: of a dormant one, or while ranks change."""

    start: int
    stop: int
    state: State = field(default_factory=dict)


class RowPieces(RowOptimizer):
    """What the optimisers of this folder share; each says how its state is made and cut.

    adapters: without moments of their own. rho: [L] or None, moved by AdamW.
    """

    def __init__(
        self,
        adapters: list[Adapter],
        rho: nn.Parameter | None,
        *,
        learning_rate: float,
        rho_learning_rate: float,
        weight_decay: float,
    ):
        super().__init__(adapters, rho)
        self._pieces: list[tuple[list[Piece], list[Piece]]] = [([], []) for _ in adapters]
        blank = [nn.Parameter(torch.empty(0, device=adapters[0].device))]
        self.inner = self.make(blank, learning_rate, weight_decay)
        self.rho_adamw = torch.optim.AdamW(blank if rho is None else [rho], lr=rho_learning_rate,
                                           weight_decay=0.0)  # fmt: skip
        self.stepped = _Both(self, self.inner, self.rho_adamw)
        self.follow(list(range(len(adapters))))

    @staticmethod
    def make(
        parameters: list[nn.Parameter], learning_rate: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """The library's optimiser; raises LoRA2Error if the library is absent."""
        raise NotImplementedError

    def cut(self, state: State, rows: int, at: int) -> tuple[State, State]:
        """The state of a piece of `rows` rows as that of its first `at` and of the others."""
        raise NotImplementedError

    def move(self) -> None:
        """One step of A and B."""
        self.inner.step()

    def set_rate(self, learning_rate: float) -> None:
        self.inner.param_groups[0]["lr"] = learning_rate

    def before_change(self, changed: list[int]) -> None:
        for index in changed:
            for piece, parameter in self._active(index):
                piece.state = self.inner.state.pop(parameter, {})
            self._segments[index] = []

    def follow(self, changed: list[int]) -> None:
        for index in changed:
            adapter = self.adapters[index]
            segments = []
            for pieces, rows in zip(self._pieces[index], (adapter.a, adapter.b), strict=True):
                self._trim(pieces, adapter.filled)
                covered = pieces[-1].stop if pieces else 0
                if covered < adapter.filled:
                    pieces.append(Piece(covered, adapter.filled))
                self._cut_at(pieces, adapter.rank)
                segments += [
                    self._activate(piece, rows) for piece in pieces if piece.stop <= adapter.rank
                ]
            self._segments[index] = segments
        if changed:
            self.inner.param_groups[0]["params"] = [
                parameter for segments in self._segments for parameter, *_ in segments
            ]

    def forget_moments(self, indices: list[int]) -> None:
        self.before_change(indices)
        for index in indices:
            self._pieces[index] = ([], [])
        self.follow(indices)

    def ages(self, index: int) -> list[int]:
        return [age for start, stop, age in self._runs(index) for _ in range(start, stop)]

    def fresh(self, index: int) -> list[tuple[int, int]]:
        rank = self.adapters[index].rank
        return [
            (start, stop) for start, stop, age in self._runs(index) if age == 0 and stop <= rank
        ]

    def extra_state(self) -> tuple[dict[str, Tensor], dict]:
        tensors, facts = {}, []
        for index in range(len(self.adapters)):
            active = self._active_states(index)
            sides = []
            for side, pieces in enumerate(self._pieces[index]):
                told = []
                for number, piece in enumerate(pieces):
                    state = self.pack(active.get(id(piece), piece.state))
                    parts = {k: v for k, v in state.items() if isinstance(v, Tensor)}
                    tensors |= {f"{index}.{side}.{number}.{k}": v for k, v in parts.items()}
                    rest = {k: v for k, v in state.items() if k not in parts}
                    told.append([piece.start, piece.stop, rest])
                sides.append(told)
            facts.append(sides)
        return tensors, {"pieces": facts}

    def restore_extra(self, tensors: Mapping[str, Tensor], facts: Mapping) -> None:
        everything = list(range(len(self.adapters)))
        states: dict[str, State] = {}
        for key, tensor in tensors.items():
            place, _, name = key.rpartition(".")
            device = self.adapters[int(place.partition(".")[0])].device
            states.setdefault(place, {})[name] = tensor.to(device).clone()
        self.before_change(everything)
        for index, sides in enumerate(facts["pieces"]):
            for side, told in enumerate(sides):
                self._pieces[index][side][:] = [
                    Piece(
                        start, stop, self.unpack(states.get(f"{index}.{side}.{number}", {}) | rest)
                    )
                    for number, (start, stop, rest) in enumerate(told)
                ]
        RowPieces.follow(self, everything)

    def pack(self, state: State) -> State:
        """Of a piece's state what a file needs to hold."""
        return state

    def unpack(self, state: State) -> State:
        """A piece's state from what `pack` left of it."""
        return state

    def _active(self, index: int) -> list[tuple[Piece, nn.Parameter]]:
        """Active pieces with their parameters; segments lie in the order of the pieces."""
        segments = self._segments[index]
        rank = segments[-1][3] if segments else 0
        pieces = [p for pieces in self._pieces[index] for p in pieces if p.stop <= rank]
        return [(piece, segment[0]) for piece, segment in zip(pieces, segments, strict=True)]

    def _active_states(self, index: int) -> dict[int, State]:
        """id of each active piece → its state; empty before its first step."""
        return {id(piece): self.inner.state.get(p, {}) for piece, p in self._active(index)}

    def _runs(self, index: int) -> list[tuple[int, int, int]]:
        """(start, stop, age) of the pieces of A."""
        active = self._active_states(index)
        return [
            (piece.start, piece.stop, active.get(id(piece), piece.state).get("step", 0))
            for piece in self._pieces[index][0]
        ]

    def _activate(self, piece: Piece, rows: Rows) -> tuple[nn.Parameter, Rows, int, int]:
        parameter = nn.Parameter(rows.values[piece.start : piece.stop])
        if piece.state:  # a library sets up the state of a parameter that has none
            self.inner.state[parameter] = piece.state
            piece.state = {}
        return parameter, rows, piece.start, piece.stop

    def _trim(self, pieces: list[Piece], filled: int) -> None:
        self._cut_at(pieces, filled)
        pieces[:] = [piece for piece in pieces if piece.stop <= filled]

    def _cut_at(self, pieces: list[Piece], row: int) -> None:
        for place, piece in enumerate(pieces):
            if piece.start < row < piece.stop:
                low, high = {}, {}
                if piece.state:
                    low, high = self.cut(piece.state, piece.stop - piece.start, row - piece.start)
                pieces[place : place + 1] = [
                    Piece(piece.start, row, low),
                    Piece(row, piece.stop, high),
                ]
                return


class _Both:
    """Two optimisers as the one that a loss scaler wants: both step, or neither."""

    def __init__(self, rows: RowPieces, *optimizers: torch.optim.Optimizer):
        self._rows = rows
        self._optimizers = optimizers

    @property
    def param_groups(self) -> list[dict]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        self._rows.move()
        self._rows.rho_adamw.step()

    def zero_grad(self, set_to_none: bool) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)
