"""Work spread over processes of one thread each."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import TypeVar

import torch

T = TypeVar("T")
Result = TypeVar("Result")


def work(
    following: Callable[[Collection[T]], T | None], function: Callable[[T], Result], jobs: int
) -> Iterator[tuple[T, Result]]:
    """(what, function(what)) as they come, until there is nothing more; in this process if jobs
    is 1.

    following(busy): what is to be done next beside what is being done; None where there is nothing,
    or nothing yet. Tensors here are small: two processes of one thread are nearly twice as fast as
    two threads.
    """
    if jobs == 1:
        while (what := following(())) is not None:
            yield what, function(what)
        return
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        busy = {}
        while True:
            while len(busy) < jobs and (what := following(busy.values())) is not None:
                busy[pool.submit(function, what)] = what
            if not busy:
                return
            for done in wait(busy, return_when=FIRST_COMPLETED).done:
                yield busy.pop(done), done.result()
