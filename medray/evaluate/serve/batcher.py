"""The batches of waiting requests: one thread asks the model, and takes as many waiting requests at once as fit together.

Requests that arrive while a batch is written wait for the next one. Streamed requests are in the same batches as the
others: each row of a batch has its own limit, stop texts and listener (`evaluate/progress.py`). Ray Serve's own
batches (`serve.batch`) would mix requests that cannot share a call of generate(), such as those of two temperatures.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer
from medray.evaluate.progress import Row
from medray.evaluate.serve.refusal import RefusedError

MOST_FAILURES = (
    20  # of jobs, one after the other: then the model itself is broken, such as a GPU after a device assert
)
GATHER_SECONDS = 0.01  # wait for requests that were sent at the same time; a batch takes much longer


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """A question that waits for its answer.

    ids: prompt, int32 [tokens]. row: how the answer ends and who listens. decoding: its common part with other
    jobs; a sampled job has the seed 0 and its seed in `name`. answer: done in the thread of the batcher.
    """

    ids: np.ndarray = field(repr=False)
    row: Row = field(repr=False)
    decoding: Decoding = field(repr=False)
    name: str
    task: str
    answer: Future[Answer] = field(default_factory=Future)

    @property
    def key(self) -> Hashable:
        """Return what jobs of one batch have in common."""
        beams = (self.row.limit, self.row.stop) if self.decoding.num_beams > 1 else None
        return (self.decoding, self.task, beams)

    def cancel(self) -> None:
        """Give up the answer: nobody waits for it."""
        self.row.cancelled = True


class Batcher:
    """A queue of jobs, and the thread that answers them in batches.

    write: answers the jobs of one batch, in their order. most: largest batch. waiting: largest number of jobs that wait.
    """

    def __init__(
        self, write: Callable[[Sequence[Job]], Sequence[Answer]], *, most: int, waiting: int
    ) -> None:
        self._write, self._most, self._limit = write, most, waiting
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.largest = 0  # rows of the largest batch so far
        self._failures = 0  # since the last answer
        self._thread = threading.Thread(target=self._run, name="medray-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return how many jobs wait."""
        return len(self._jobs)

    @property
    def healthy(self) -> bool:
        """Return whether jobs can still be answered."""
        return self._thread.is_alive() and self._failures < MOST_FAILURES

    def submit(self, job: Job) -> None:
        """Queue a job. Raises RefusedError (429) if too many wait."""
        with self._changed:
            if self._closed:
                raise RefusedError(503, "the server is ending", code="server_ending")
            if len(self._jobs) >= self._limit:
                raise RefusedError(
                    429,
                    f"{len(self._jobs)} requests wait already; try again later",
                    code="too_many_requests",
                    wait=5,
                )
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Answer what waits, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self.largest = max(self.largest, len(batch))
                self._answer(batch)

    def _next(self) -> list[Job] | None:
        """Wait for jobs and return those of the next batch; None when there will be no more."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
        time.sleep(GATHER_SECONDS)
        with self._changed:
            batch: list[Job] = []
            others: deque[Job] = deque()
            for job in self._jobs:
                if len(batch) == self._most or (batch and job.key != batch[0].key):
                    others.append(job)
                elif job.row.cancelled or not job.answer.set_running_or_notify_cancel():
                    job.answer.cancel()
                else:
                    batch.append(job)
            self._jobs = others
        return batch

    def _answer(self, batch: Sequence[Job]) -> None:
        try:
            found = self._write(batch)
        except Exception as error:
            # A row that cannot be answered must not cost the others their answers. A stream cannot begin again.
            for job in batch:
                if len(batch) == 1 or (job.row.listener is not None and job.row.tokens):
                    self._failures += 1
                    job.answer.set_exception(error)
                else:
                    job.row.tokens, job.row.ended = [], False
                    self._answer([job])
            return
        self._failures = 0
        for job, answer in zip(batch, found, strict=True):
            job.answer.set_result(answer)
