"""Whether the loss reaches every adapted layer: one that it does not reach learns nothing.

B starts at zero, so that A's first gradient is zero in any case, but B's is not: it is what is
looked at. What is found stays on the device, and is fetched once with the loss of that step.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..layers.adapter import Adapter

STEPS = (
    5  # that are looked at: chance leaves no layer of a sound network without a gradient so long
)
_NAMED = 3  # layers that a message names
_QUERY_OR_KEY = re.compile(r"(.*)\.(?:to_q|to_k|q_proj|k_proj)")
_KEY = re.compile(r"(.*)\.(?:to_k|k_proj)")
_TEXT_LAYER = re.compile(r"(te\d)\..*\blayers\.(\d+)\.")
_REFUSALS = (  # what torch and its extensions say of what they cannot differentiate
    "no autograd formula",
    "derivative for",
    "does not require grad and does not have a grad_fn",
    "inference tensor",
    "modified by an inplace operation",
    "must implement either the backward",
    "not differentiable",
    "attention_backward",
)
_WAY_OUT = (
    "Something in the model passes no gradient on, such as an attention kernel that is made for "
    "inference: in ComfyUI start without --use-sage-attention and --use-flash-attention and leave "
    "out nodes that change the model's attention, elsewhere choose torch's own attention"
)
_log = logging.getLogger(__name__)


class NoGradient(LoRA2Error):
    """Adapted layers that the loss does not reach, or a network that cannot be differentiated."""


@contextmanager
def differentiated(step: int) -> Iterator[None]:
    """Within the block, what autograd refuses ends in NoGradient. step: from 1."""
    try:
        yield
    except RuntimeError as error:
        told = str(error).strip()
        if not any(words in told.lower() for words in _REFUSALS):
            raise
        first = told.splitlines()[0].rstrip(".")
        raise NoGradient(f"step {step} has no gradient ({first}). {_WAY_OUT}") from error


class GradientGuard:
    """Looks at the first steps of a run, and then no more.

    adapters: of the run. names: of their layers, for messages, in the same order.
    """

    def __init__(self, adapters: Sequence[Adapter], names: Sequence[str]):
        self._adapters = adapters
        self._names = names
        self._looked = 0  # steps
        self._done = False
        self._reached: Tensor | None = None  # [adapters], bool: had a gradient in any step
        self._fed: dict[int, Tensor] = {}  # of layers that ran: whether an input was not zero
        self._keys: dict[str, int] = {}  # attention → the most keys that it had
        self._seen: set[int] = set()  # layers that ran in this step
        self._hooks = ExitStack()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Watches the layers within the block, as long as there is something to look at."""
        if not self._done:
            for index, adapter in enumerate(self._adapters):
                handle = adapter.layer.register_forward_pre_hook(self._look(index))
                self._hooks.callback(handle.remove)
        try:
            yield
        finally:
            self._hooks.close()

    def look(self, last: bool) -> Tensor | None:
        """Takes in the gradients of a step, before they are used. last: no other will follow.

        At the last of the steps that are looked at returns what `judge` is to have, flat and on the
        device, so that it can be fetched with other numbers; else None.
        """
        if self._done:
            return None
        zero = torch.zeros((), device=self._adapters[0].device)
        grads = [adapter.b.active.grad for adapter in self._adapters]
        sizes = [
            zero if grad is None or grad.numel() == 0 else torch.linalg.vector_norm(grad, torch.inf)
            for grad in grads
        ]
        reached = torch.stack(sizes) != 0  # NaN is something, too
        self._reached = reached if self._reached is None else self._reached | reached
        self._seen.clear()
        self._looked += 1
        self._done = last or self._looked == STEPS
        if not self._done:
            return None
        self._hooks.close()
        return torch.cat([self._reached, *(fed.reshape(1) for fed in self._fed.values())]).float()

    def judge(self, fetched: Sequence[float], tell: Callable[[str], None] | None) -> None:
        """Raises NoGradient for layers that had no gradient, and tells of those that could have
        none; without tell, the log does.

        fetched: what `look` returned.
        """
        tell = tell or _log.warning
        reached = [value != 0 for value in fetched[: len(self._adapters)]]
        fed = {
            index: value != 0
            for index, value in zip(self._fed, fetched[len(self._adapters) :], strict=True)
        }
        silent = [index for index, found in enumerate(reached) if not found]
        absent = [index for index in silent if index not in fed]
        blank = self._blank(silent, fed)
        unread = self._unread(reached)
        known = {*absent, *blank, *unread, *filter(self._alone, silent)}
        cut = [index for index in silent if index not in known]
        if cut:
            raise NoGradient(
                f"{self._some(cut)} had no gradient in {self._looked} steps: they would learn "
                f"nothing. {_WAY_OUT}"
            )
        if absent:
            tell(f"{self._some(absent)} take no part in the model's forward pass and learn nothing")
        if blank:
            tell(
                f"{self._some(blank)} get nothing but zeros and learn nothing: a caption that is "
                "zeroed out, perhaps"
            )
        if unread:
            _log.info("%s are behind what is read of the text encoder", self._some(sorted(unread)))

    def _look(self, index: int) -> Callable:
        key = _KEY.fullmatch(self._adapters[index].name)

        def hook(layer, args):
            if index in self._seen:  # a recomputation, or another batch
                return
            self._seen.add(index)
            x = args[0].detach()
            if key:
                self._keys[key[1]] = max(self._keys.get(key[1], 0), x.shape[-2])
            fed = x.any()
            self._fed[index] = fed if index not in self._fed else self._fed[index] | fed

        return hook

    def _blank(self, silent: Sequence[int], fed: Mapping[int, bool]) -> list[int]:
        """Those that got zeros, and queries that meet keys made of zeros."""
        names = {index: self._adapters[index].name for index in silent}
        zeros = {index for index in silent if fed.get(index) is False}
        keys = {found[1] for index in zeros if (found := _KEY.fullmatch(names[index]))}
        return [
            index
            for index, name in names.items()
            if index in zeros or ((found := _QUERY_OR_KEY.fullmatch(name)) and found[1] in keys)
        ]

    def _alone(self, index: int) -> bool:
        """Whether it makes a query or key where there is one key: its weight is 1 in any case."""
        found = _QUERY_OR_KEY.fullmatch(self._adapters[index].name)
        return bool(found) and self._keys.get(found[1]) == 1

    def _unread(self, reached: Sequence[bool]) -> set[int]:
        """Of text encoders the last layers that no gradient reaches, if it reaches one before them:
        SDXL takes CLIP-L's last layer but one.
        """
        places: dict[str, dict[int, list[int]]] = {}
        for index, adapter in enumerate(self._adapters):
            if found := _TEXT_LAYER.match(adapter.name):
                places.setdefault(found[1], {}).setdefault(int(found[2]), []).append(index)
        unread: set[int] = set()
        for layers in places.values():
            live = [n for n, inside in layers.items() if any(reached[i] for i in inside)]
            if live:
                unread |= {i for n, inside in layers.items() if n > max(live) for i in inside}
        return unread

    def _some(self, indices: Sequence[int]) -> str:
        names = [self._names[index] for index in indices[:_NAMED]]
        more = ", …" if len(indices) > _NAMED else ""
        return f"{len(indices)} of {len(self._names)} adapted layers ({', '.join(names)}{more})"
