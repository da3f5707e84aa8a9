"""Showing a job's log until the job has ended. The job server decides when that is, not the end of the log's stream."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable

from medray.errors import RunFailedError
from medray.launch.job.server import Job, JobServer, UnknownJobError, UnreachableError

STOPPED = 75  # exit code of a driver that saved after a request to stop
POLL_SECONDS = 2.0
PATIENCE_SECONDS = 600.0
REST_SECONDS = 10.0  # time for the stream to deliver the last lines of a job that has ended


INTERRUPTED = 130  # exit code of a driver that saved after Ctrl-C; other codes above 128 are those of a shell, for a signal


def exit_code(job: Job) -> int:
    """Return the driver's exit code; 75 if the job was stopped, 1 if the driver was killed or its code is unknown."""
    if job.status == "SUCCEEDED":
        return job.exit_code or 0
    if job.status == "STOPPED":  # Ray does not keep the exit code of a stopped job
        return STOPPED
    return 1 if job.exit_code is None or killed_by(job) else job.exit_code


def killed_by(job: Job) -> str | None:
    """Return the name of the signal that ended the driver, derived from its exit code; None if no signal did."""
    code = job.exit_code or 0
    number = -code if code < 0 else code - 128
    if number <= 0 or code == INTERRUPTED:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def explained(job: Job) -> str:
    """Return a sentence that says why a job ended and what to do next."""
    code = exit_code(job)
    if job.status == "STOPPED":
        return "the job was stopped; launch it again to resume from its newest checkpoint"
    if by := killed_by(job):
        return f"the job's driver was killed by {by}; launch it again to resume from its newest checkpoint"
    if job.exit_code is None and job.status == "FAILED":
        return "the job's driver was lost or never started; see the message of the job server above"
    return {
        0: "done",
        2: "the config or the data is wrong; the log says what is wrong and how to fix it",
        75: "the run was told to stop and saved; launch it again to resume",
        76: "the run was stopped on request and saved; launch it again to resume",
        127: "the head node does not have this Python; set launch.job.python to one that it has",
        130: "the run was interrupted and saved; launch it again to resume",
    }.get(code, "see the log of the job for the reason")


class Follower:
    """Follows one job: shows its log and waits until it has ended.

    show: called with text of the log. say: called with a sentence about the connection. The numbers of seconds are
    parameters for tests.
    """

    def __init__(
        self,
        server: JobServer,
        job_id: str,
        *,
        show: Callable[[str], None],
        say: Callable[[str], None],
        poll_seconds: float = POLL_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self._server, self._id, self._show, self._say = server, job_id, show, say
        self._poll, self._patience, self._rest = poll_seconds, patience_seconds, rest_seconds
        self._shown = 0  # characters of the log
        self._stream: _Stream | None = None

    def until_ended(self) -> Job:
        """Wait until the job has ended, and return it.

        Raises RunFailedError if the job server does not answer for `patience_seconds`, or no longer knows the job.
        """
        due = 0.0
        while True:
            self._show_what_came(due - time.monotonic())
            if time.monotonic() < due:
                continue
            job = self._asked()
            if not job.active:
                self._show_the_rest()
                return job
            if self._stream is None:
                self._stream = _Stream(self._server, self._id, skip=self._shown)
            due = time.monotonic() + self._poll

    def _show_what_came(self, seconds: float) -> bool:
        """Wait up to `seconds` for a piece of the stream and show it. Returns whether there was one."""
        if self._stream is None:
            time.sleep(max(0.0, seconds))
            return False
        try:
            text = self._stream.pieces.get(timeout=max(0.001, seconds))
        except queue.Empty:
            return False
        if text is None:
            self._stream = None  # the job may not have ended: the next query of its state starts a new stream
            return False
        self._shown += len(text)
        self._show(text)
        return True

    def _show_the_rest(self) -> None:
        limit = time.monotonic() + self._rest
        while self._stream is not None and (left := limit - time.monotonic()) > 0:
            self._show_what_came(left)
        try:
            log = self._server.log(self._id)
        except (UnreachableError, UnknownJobError, RunFailedError) as error:
            self._say(f"the last lines of the log are missing: {error}")
            return
        if len(log) > self._shown:
            self._show(log[self._shown :])
            self._shown = len(log)

    def _asked(self) -> Job:
        """Return the state of the job. While the server does not answer, ask again."""
        limit: float | None = None
        while True:
            try:
                job = self._server.job(self._id)
            except UnreachableError as error:
                if limit is None:
                    limit = time.monotonic() + self._patience
                    self._say(f"{error}; trying again for {self._patience:.0f} s")
                if time.monotonic() >= limit:
                    raise RunFailedError(
                        f"{error}, for {self._patience:.0f} s. The job may still be running. Fix: use --attach when the server "
                        "answers again"
                    ) from None
                time.sleep(min(self._poll, max(0.0, limit - time.monotonic())))
            except UnknownJobError:
                raise RunFailedError(
                    f"the cluster no longer knows the job {self._id}: its head was restarted, or the job was removed. "
                    "Fix: launch the config again; the run resumes from its newest checkpoint"
                ) from None
            else:
                if limit is not None:
                    self._say("the job server answers again")
                return job


class _Stream:
    """A thread that reads the log's stream, so that a connection that hangs does not block queries of the job's state.

    pieces: the text in order, without its first `skip` characters, then None. The thread ends with the process.
    """

    def __init__(self, server: JobServer, job_id: str, skip: int) -> None:
        self.pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._server, self._id, self._skip = server, job_id, skip
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # treat a broken stream as ended
            asyncio.run(self._pump())
        self.pieces.put(None)

    async def _pump(self) -> None:
        async for text in self._server.tail(self._id):
            fresh, self._skip = text[self._skip :], max(0, self._skip - len(text))
            if fresh:
                self.pieces.put(fresh)
