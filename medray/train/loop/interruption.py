"""Reasons to leave the worker loop before its last step: a stop on request, or a node that will be taken away.

A preemption notice is answered at once with a checkpoint, because the node may go early. Training then continues while
the notice lasts, and ends with another checkpoint in time: the driver starts a group again on the nodes that stay.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from medray.train.engine import Engine

STOPPED, PREEMPTED, NOTICED = "stopped", "preempted", "noticed"
_NOTHING, _LOOK, _LEAVE, _STOP = range(4)
# Added to the time that is kept before a node goes, which is twice that of the last step and checkpoint.
SPARE_SECONDS = 5.0


class Signals(Protocol):
    """The questions of the training loop after each step: was a stop requested, and will a node of the workers be taken away?"""

    def stop_requested(self) -> bool:
        """Return whether to save and stop. Asked on rank 0."""

    def preemption_check_due(self) -> bool:
        """Return whether all ranks have to call `preemption_time` now. Asked on rank 0."""

    def preemption_time(self) -> float | None:
        """Return when a node of the workers will be taken away, in seconds since the epoch; 0 if that is not known.

        None if all nodes stay. Collective: all ranks call it together and get the same answer.
        """


class Interruption:
    """The orders to one rank; all ranks get the same answers."""

    def __init__(
        self,
        signals: Signals,
        engine: Engine,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signals, self._engine, self._tell, self._clock = signals, engine, tell, clock
        self._deadline: float | None = None
        self._save_seconds = 0.0

    def asked(self, *, step_seconds: float) -> str | None:
        """Return the order after a step. STOPPED or PREEMPTED: save and leave. NOTICED: save and call `saved`. None: none.

        Call it once per step. step_seconds: duration of the last step.
        """
        order = self._agreed(self._order(step_seconds) if self._engine.rank == 0 else _NOTHING)
        if order == _LOOK:
            return self._look()
        return {_STOP: STOPPED, _LEAVE: PREEMPTED}.get(order)

    def saved(self, seconds: float) -> None:
        """Record the duration of the checkpoint that a notice asked for, when it is complete."""
        self._save_seconds = seconds

    def _order(self, step_seconds: float) -> int:
        if self._signals.stop_requested():
            return _STOP
        if self._deadline is not None:
            needed = SPARE_SECONDS + 2 * (step_seconds + self._save_seconds)
            if self._clock() + needed >= self._deadline:
                return _LEAVE
        return _LOOK if self._signals.preemption_check_due() else _NOTHING

    def _look(self) -> str | None:
        deadline, known = self._signals.preemption_time(), self._deadline
        if deadline is None:
            return None
        self._deadline = deadline if known is None else min(known, deadline)
        if known is not None:
            return None
        left = deadline - self._clock()
        self._tell(
            f"a node will be taken away{f' in {left:.0f} s' if deadline else ''}: this step is saved now, and the workers "
            "start again in time on the nodes that stay"
        )
        return NOTICED

    def _agreed(self, order: int) -> int:
        """Return rank 0's order, on all ranks."""
        return int(self._engine.sum(torch.tensor([float(order)], device=self._engine.device)).item())


@contextmanager
def killed_when_hung(seconds: int) -> Iterator[None]:
    """End this process, with its stacks in the log, if the block takes longer than `seconds`."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
