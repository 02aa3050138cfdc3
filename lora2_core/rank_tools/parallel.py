"""Many small pieces of linear algebra at once, and few of them in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """work(item) of every item, in order: one thread a core, and each does its own alone.

    A decomposition of some hundred rows hardly gains from a second core, and two that share both
    cores starve each other.
    """
    workers = max(1, os.cpu_count() or 1)
    threads = torch.get_num_threads()
    pending: deque[Future[Result]] = deque()
    torch.set_num_threads(1)
    try:
        # each thread has a setting of its own beside the common one
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(threads)
