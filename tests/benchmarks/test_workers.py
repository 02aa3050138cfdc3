"""Work that is planned while it is done."""

import pytest
from tradeoff.workers import work


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_comes_next_is_asked_for_as_results_come_and_never_what_is_being_done(jobs):
    done, most = {}, 0

    def following(busy):
        nonlocal most
        most = max(most, len(busy) + 1)
        assert not set(busy) & done.keys()
        if done.keys() == {-4, -3, -2, -1}:
            return 5  # is known only once the others are there
        return next((n for n in (-4, -3, -2, -1) if n not in done and n not in busy), None)

    for what, found in work(lambda busy: None if 5 in done else following(busy), abs, jobs):
        done[what] = found
    assert done == {-4: 4, -3: 3, -2: 2, -1: 1, 5: 5}
    assert most == jobs


def test_nothing_to_do_starts_no_process():
    assert list(work(lambda busy: None, abs, 2)) == []
