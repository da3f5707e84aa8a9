"""Prefetched steps: their order, their number, the time spent waiting, and the end of the thread."""

from __future__ import annotations

import threading
from threading import Event, Semaphore
from types import SimpleNamespace

import pytest

from medray.train.loop import read_ahead
from medray.train.loop.read_ahead import ReadAhead


def side_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_all_steps_come_in_order_and_the_thread_ends() -> None:
    with ReadAhead(lambda step: step * 10, range(3, 20), depth=2) as ahead:
        assert [(ready.step, ready.prepared) for ready in ahead] == [
            (step, step * 10) for step in range(3, 20)
        ]
    assert side_threads() == []


def test_an_empty_range_gives_no_steps() -> None:
    with ReadAhead(lambda step: step, range(5, 5)) as ahead:
        assert list(ahead) == []


def test_at_most_depth_steps_are_prepared_ahead() -> None:
    made, begun = [], Semaphore(0)

    def prepare(step: int) -> int:
        made.append(step)
        begun.release()
        return step

    with ReadAhead(prepare, range(100), depth=3) as ahead:
        for _ in range(3):
            assert begun.acquire(timeout=60)
        assert not begun.acquire(timeout=0.05), "a fourth was begun while none was taken"
        assert next(iter(ahead)).step == 0
        assert begun.acquire(timeout=60)
        assert not begun.acquire(timeout=0.05)
    assert made == [0, 1, 2, 3]
    assert side_threads() == []


def test_steps_are_prepared_while_one_is_computed() -> None:
    second = Event()

    def prepare(step: int) -> int:
        if step == 1:
            second.set()
        return step

    with ReadAhead(prepare, range(2), depth=1) as ahead:
        for ready in ahead:
            if ready.step == 0:
                assert second.wait(timeout=60), "step 1 was not begun while step 0 was held"


def test_a_consumer_that_stops_early_ends_the_thread() -> None:
    with ReadAhead(lambda step: step, range(10**9), depth=2) as ahead:
        for ready in ahead:
            if ready.step == 4:
                break
    assert side_threads() == []
    with pytest.raises(RuntimeError, match="the consumer's"), ReadAhead(lambda step: step, range(9)) as ahead:
        raise RuntimeError("the consumer's")
    assert side_threads() == []


def test_an_exception_comes_after_the_steps_before_it() -> None:
    def prepare(step: int) -> int:
        if step == 2:
            raise ValueError("shard 7 is gone")
        return step

    with ReadAhead(prepare, range(9)) as ahead:
        steps = iter(ahead)
        assert [next(steps).step for _ in range(2)] == [0, 1]
        with pytest.raises(ValueError, match="shard 7 is gone"):
            next(steps)
    assert side_threads() == []


def test_the_time_that_the_consumer_waited_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a clock that advances only while the first step is prepared, after the consumer has begun to wait for it."""
    now, waiting = 100.0, Event()

    def clock() -> float:
        waiting.set()
        return now

    def prepare(step: int) -> int:
        nonlocal now
        if step == 0:
            assert waiting.wait(timeout=60)
            now = 107.0
        return step

    monkeypatch.setattr(read_ahead, "time", SimpleNamespace(perf_counter=clock))
    with ReadAhead(prepare, range(3), depth=3) as ahead:
        assert [ready.waited for ready in ahead] == [7.0, 0.0, 0.0]
