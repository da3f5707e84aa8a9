"""Why a run failed, in one line: Ray wraps a worker's error in its own, with tracebacks inside the message."""

from __future__ import annotations


def first_failure(error: BaseException) -> str:
    """The first worker's own error, in one line."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, cause = sorted(failures.items())[0]
        return f"worker {rank}: {last_line(cause)}"
    return last_line(error)


def last_line(error: BaseException) -> str:
    """Kind and message, without the traceback that Ray writes into messages."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return last_line(cause)
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()[:500]}" if lines else type(error).__name__
