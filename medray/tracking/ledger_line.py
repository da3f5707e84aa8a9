"""The connection of rank 0 to the ledger actor.

Training steps never wait for it, and no record is lost if the ledger dies.

Each record is kept here until the ledger confirms that it is on disk. After the ledger was restarted, all kept records
are sent again, and the ledger adds those that it lacks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

FLUSH_SECONDS = 30.0
OPEN_SECONDS = 60.0  # a ledger that dies is restarted after about a second
OPEN_PAUSE_SECONDS = 0.2


class LedgerLine:
    """A client of the ledger actor. `flush` may be called from another thread than the other methods."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._steps: list[dict[str, Any]] = []
        self._evaluations: list[dict[str, Any]] = []
        self._stop: Any = None
        self._was_away = False

    def open(self, resumed_step: int) -> None:
        """Tell the ledger after which step training starts, and wait for its answer.

        Raises RayError if the ledger does not come back.
        """
        self._wait(lambda: self._ledger.open.remote(resumed_step=resumed_step))

    def last_evaluation(self, record: dict[str, Any]) -> None:
        """Report an evaluation and wait until it is on disk. Raises RayError or OSError if that fails."""
        self._wait(lambda: self._ledger.evaluation.remote(record))
        self.flush()

    def _wait(self, call: Callable[[], Any]) -> None:
        """Call the ledger until it answers. Ray restarts a ledger that died."""
        import ray

        until = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                ray.get(call(), timeout=OPEN_SECONDS)
                return
            except ray.exceptions.RayActorError:
                if time.monotonic() > until:
                    raise
                time.sleep(OPEN_PAUSE_SECONDS)

    def step(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._steps.append(record)
        self._ledger.step.remote(record)

    def evaluation(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._evaluations.append(record)
        self._ledger.evaluation.remote(record)

    def event(self, record: dict[str, Any]) -> None:
        """Send an event to be shown on the console. It is lost if the ledger is down."""
        self._ledger.event.remote(record)

    def stop_requested(self) -> bool:
        """Return whether a stop was requested, without waiting. Call this once per step.

        The answer is that of the request sent by the previous call.
        """
        import ray

        answer = False
        if self._stop is not None:
            ready, _ = ray.wait([self._stop], timeout=0)
            if not ready:
                return False
            try:
                answer = ray.get(self._stop) is not None
                if self._was_away:
                    self._was_away = False
                    self._ledger.flush.remote(*self._kept())
            except ray.exceptions.RayActorError:
                self._was_away = True
        self._stop = self._ledger.stop_reason.remote()
        return answer

    def flush(self) -> None:
        """Wait until all records sent so far are on disk. Raises OSError if they are not; call it again later."""
        import ray

        steps, evaluations = self._kept()
        try:
            reason = ray.get(self._ledger.flush.remote(steps, evaluations), timeout=FLUSH_SECONDS)
        except (ray.exceptions.RayActorError, TimeoutError) as error:
            raise OSError("the ledger actor of this run does not answer; the flush is retried") from error
        if reason is not None:
            raise OSError(reason)
        with self._lock:
            del self._steps[: len(steps)], self._evaluations[: len(evaluations)]

    def _kept(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        with self._lock:
            return list(self._steps), list(self._evaluations)
