"""Work spread over processes of one thread each."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch


def each(function: Callable, tasks: Sequence[tuple], jobs: int) -> Iterator:
    """function(*task) of every task, as they come; in this process if jobs is 1.

    Tensors here are small: two processes of one thread are nearly twice as fast as two threads.
    """
    if jobs == 1:
        yield from (function(*task) for task in tasks)
        return
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for done in as_completed([pool.submit(function, *task) for task in tasks]):
            yield done.result()
