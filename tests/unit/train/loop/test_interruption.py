"""When the worker loop leaves: a stop that was asked for, and a notice that a node goes, with a clock of the test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from medray.train.loop.interruption import NOTICED, PREEMPTED, SPARE_SECONDS, STOPPED, Interruption


class Orders:
    """stop, deadline: what the signals say now; looks: how often `preemption_time` was called."""

    def __init__(self) -> None:
        self.stop, self.due, self.looks = False, True, 0
        self.deadline: float | None = None

    def stop_requested(self) -> bool:
        return self.stop

    def preemption_check_due(self) -> bool:
        return self.due

    def preemption_time(self) -> float | None:
        self.looks += 1
        return self.deadline


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ending(orders: Orders, clock: Clock, rank: int = 0, order: int = 0) -> tuple[Interruption, list[str]]:
    """order: what rank 0 said, where this is another rank."""

    def summed(values: torch.Tensor) -> torch.Tensor:
        return values + order

    told: list[str] = []
    engine: Any = SimpleNamespace(rank=rank, device=torch.device("cpu"), sum=summed)
    return Interruption(orders, engine, told.append, clock), told


def test_a_notice_is_answered_at_once_and_the_loop_leaves_in_time() -> None:
    orders, clock = Orders(), Clock()
    one, told = ending(orders, clock)
    assert one.asked(step_seconds=1) is None
    orders.deadline = 1060
    assert one.asked(step_seconds=1) == NOTICED
    assert "in 60 s" in told[0]
    one.saved(3)
    clock.now = 1060 - SPARE_SECONDS - 2 * (1 + 3) - 0.5
    assert one.asked(step_seconds=1) is None
    assert one.asked(step_seconds=2) == PREEMPTED  # the last step took longer
    clock.now += 1
    assert one.asked(step_seconds=1) == PREEMPTED
    assert len(told) == 1


def test_the_spare_time_before_a_preemption_time_is_some_and_less_than_a_usual_notice() -> None:
    """Clouds give 30 s at least; the other tests take the constant as it is."""
    assert 5 <= SPARE_SECONDS <= 15


def test_an_earlier_notice_counts_and_a_later_one_does_not() -> None:
    orders, clock = Orders(), Clock()
    one, _ = ending(orders, clock)
    for deadline, answer in ((1100, NOTICED), (1020, None), (1200, None)):
        orders.deadline = deadline
        assert one.asked(step_seconds=0) == answer
    clock.now = 1020 - SPARE_SECONDS
    assert one.asked(step_seconds=0) == PREEMPTED


def test_a_notice_without_a_time_leaves_after_its_checkpoint_and_a_stop_comes_first() -> None:
    orders, clock = Orders(), Clock()
    one, told = ending(orders, clock)
    orders.deadline = 0
    assert one.asked(step_seconds=1) == NOTICED
    assert " in " not in told[0].partition(":")[0]
    assert one.asked(step_seconds=1) == PREEMPTED
    orders.stop = True
    assert one.asked(step_seconds=1) == STOPPED


def test_another_rank_does_what_rank_0_says_and_never_asks_by_itself() -> None:
    orders, clock = Orders(), Clock()
    orders.stop, orders.deadline = True, 0
    found = [ending(orders, clock, rank=1, order=order)[0].asked(step_seconds=1) for order in range(4)]
    assert found == [None, NOTICED, PREEMPTED, STOPPED]
    assert orders.looks == 1


def test_nothing_is_asked_of_the_other_ranks_before_it_is_time() -> None:
    orders, clock = Orders(), Clock()
    orders.due = False
    one, _ = ending(orders, clock)
    assert one.asked(step_seconds=1) is None
    assert orders.looks == 0
