"""Many small pieces of linear algebra at once, and few of them in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """work(item) of every item, in order: one thread a core, and each does its own alone.

    A decomposition of some hundred rows hardly gains from a second core, and two that share both
    cores starve each other.
    """
    workers = max(1, os.cpu_count() or 1)
    pending: deque[Future[Result]] = deque()
    # each thread has a setting of its own beside the common one
    with (
        _one_thread_each,
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class _OneThreadEach:
    """Sets torch to one thread while anybody is within; the last to leave sets it back."""

    def __init__(self):
        self._lock = Lock()
        self._within = 0
        self._before = 1

    def __enter__(self) -> None:
        with self._lock:
            if self._within == 0:
                self._before = torch.get_num_threads()
                torch.set_num_threads(1)
            self._within += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0:
                torch.set_num_threads(self._before)


_one_thread_each = _OneThreadEach()
