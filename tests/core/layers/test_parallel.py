"""Work in order on all cores."""

import threading

import pytest
import torch

from lora2_core.layers.parallel import in_order


def test_results_come_in_order():
    assert list(in_order(lambda x: x * x, range(50))) == [x * x for x in range(50)]


def test_items_are_taken_as_they_are_needed():
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = in_order(lambda x: x, items())
    assert next(results) == 0
    assert len(taken) < 200
    results.close()


def test_an_error_comes_out_and_the_threads_are_as_before():
    before = torch.get_num_threads()

    def fail(x):
        raise ValueError(x)

    with pytest.raises(ValueError, match="3"):
        list(in_order(fail, [3]))
    assert torch.get_num_threads() == before


def test_two_at_a_time_leave_the_threads_as_before():
    before = torch.get_num_threads()
    first, second = in_order(lambda x: x, range(9)), in_order(lambda x: x, range(9))
    next(first), next(second)
    assert torch.get_num_threads() == 1
    first.close()
    assert torch.get_num_threads() == 1
    second.close()
    assert torch.get_num_threads() == before
    assert threading.active_count() < 20
