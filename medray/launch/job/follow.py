"""Shows a job's log until the job has ended. Its end is what the job server says, never the end of the log's stream."""

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

STOPPED = 75  # exit code of a driver that was told to stop and saved
POLL_SECONDS = 2.0
PATIENCE_SECONDS = 600.0
REST_SECONDS = 10.0  # that the stream gets for the last lines of a job that has ended


INTERRUPTED = (
    130  # of a driver that saved after Ctrl-C; every other code above 128 is a shell's, for a signal
)


def exit_code(job: Job) -> int:
    """What the driver ended with. A job that was stopped: 75; one without a code of its driver, or killed: 1."""
    if job.status == "SUCCEEDED":
        return job.exit_code or 0
    if job.status == "STOPPED":  # Ray keeps no code of these
        return STOPPED
    return 1 if job.exit_code is None or killed_by(job) else job.exit_code


def killed_by(job: Job) -> str | None:
    """Name of the signal that ended the driver, as its shell or its parent tells it."""
    code = job.exit_code or 0
    number = -code if code < 0 else code - 128
    if number <= 0 or code == INTERRUPTED:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def explained(job: Job) -> str:
    """One sentence on how a job ended, and what to do."""
    code = exit_code(job)
    if job.status == "STOPPED":
        return "it was stopped; launched again, it resumes from its newest checkpoint"
    if by := killed_by(job):
        return f"its driver was killed by {by}; launched again, it resumes from its newest checkpoint"
    if job.exit_code is None and job.status == "FAILED":
        return "its driver was lost, or never started: the message of the job server is above"
    return {
        0: "done",
        2: "its input is wrong: the log says what and how to fix it",
        75: "it was told to stop and saved; launched again, it resumes",
        76: "it was stopped on request and saved; launched again, it resumes",
        127: "the head node has no such Python: name one in launch.job.python",
        130: "it was interrupted and saved; launched again, it resumes",
    }.get(code, "its log says why")


class Follower:
    """show: gets the log's text. say: gets a sentence on the connection. Waiting seconds are for tests to shorten."""

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
        """Return the job once it has ended.

        Raises RunFailedError when the job server was away for longer than the patience, or has forgotten the job.
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
        """Show one piece of the stream, waiting for it so long. Returns whether there was one."""
        if self._stream is None:
            time.sleep(max(0.0, seconds))
            return False
        try:
            text = self._stream.pieces.get(timeout=max(0.001, seconds))
        except queue.Empty:
            return False
        if text is None:
            self._stream = None  # it ended, the job may not have: the next look at its state begins another
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
        """The state of the job, asked again while nobody answers."""
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
                        f"{error}, for {self._patience:.0f} s. The job may go on: look with --attach when it answers again"
                    ) from None
                time.sleep(min(self._poll, max(0.0, limit - time.monotonic())))
            except UnknownJobError:
                raise RunFailedError(
                    f"the cluster no longer knows the job {self._id}: its head was started again, or the job was removed. "
                    "Launch it again: a run resumes from its newest checkpoint"
                ) from None
            else:
                if limit is not None:
                    self._say("the job server answers again")
                return job


class _Stream:
    """The log's stream in a thread of its own, so that a connection that hangs cannot stop the looks at the job's state.

    pieces: text in order without the first `skip` characters, then None. The thread ends with the process.
    """

    def __init__(self, server: JobServer, job_id: str, skip: int) -> None:
        self.pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._server, self._id, self._skip = server, job_id, skip
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # a broken stream is an ended one
            asyncio.run(self._pump())
        self.pieces.put(None)

    async def _pump(self) -> None:
        async for text in self._server.tail(self._id):
            fresh, self._skip = text[self._skip :], max(0, self._skip - len(text))
            if fresh:
                self.pieces.put(fresh)
