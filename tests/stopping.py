"""A command that is stopped in the middle of a run, as by Ctrl-C."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from lora2_core.commands import train


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Within the block, `train` is interrupted after that step."""

    class Stop(train.Progress):
        def __call__(self, info):
            super().__call__(info)
            if info.step == step:
                raise KeyboardInterrupt

    with patch.object(train, "Progress", Stop):
        yield
