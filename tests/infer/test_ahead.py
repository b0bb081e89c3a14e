"""Threads that work ahead of a stream's reader and behind it: order, bounds and errors."""

import threading
import time

import pytest

from semivss.infer.ahead import map_behind, read_ahead


def test_reading_ahead_keeps_the_order_and_stays_within_its_bound():
    fetched = []

    def source():
        for number in range(20):
            fetched.append(number)
            yield number

    seen = []
    for number in read_ahead(source(), 3):
        seen.append(number)
        time.sleep(0.002)
        assert len(fetched) <= len(seen) + 3
    assert seen == list(range(20))
    assert fetched == seen


def test_an_error_of_the_source_comes_after_what_it_gave():
    def source():
        yield 1
        yield 2
        raise KeyError("third")

    seen = []
    with pytest.raises(KeyError, match="third"):
        seen += read_ahead(source(), 4)
    assert seen == [1, 2]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_results_before_an_error_are_given_first(error):
    def source():
        yield 1
        yield 2
        raise error

    seen = []
    with pytest.raises(error):
        seen.extend(map_behind(lambda number: number * 10, source()))
    assert seen == [10, 20]


def test_an_error_of_the_function_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(map_behind(lambda number: 1 // number, iter([1, 0, 2])))


def test_the_function_runs_while_the_next_item_is_made():
    begun = threading.Event()

    def source():
        yield 1
        assert begun.wait(5)  # would never come if the function ran after this
        yield 2

    assert list(map_behind(lambda number: begun.set() or number, source())) == [1, 2]


def test_items_made_together_are_worked_on_while_the_next_are_made():
    begun = threading.Event()

    def source():
        yield from range(4)
        begun.set()
        yield from range(4, 8)

    def work(number):
        assert begun.wait(5)  # would never come if one of the first four were waited for
        return number

    assert list(map_behind(work, source(), lambda number: 4)) == list(range(8))


def test_no_more_items_wait_than_may():
    made = []

    def source():
        for number in range(30):
            made.append(number)
            yield number

    most = [len(made) - number for number in map_behind(int, source(), lambda number: 3 if number < 10 else 1)]
    assert max(most[:7]) == 4  # the one that is given, and three that wait
    assert max(most[12:]) == 2


def test_whoever_stops_early_stops_the_thread_and_closes_the_source():
    closed = []

    def source():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    before = threading.active_count()
    stream = map_behind(lambda number: number, read_ahead(source(), 2))
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()
    del stream
    assert closed == [True]
    assert threading.active_count() == before
