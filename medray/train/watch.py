"""A rank that hangs keeps the others in a collective for ever: it is better dead, and Ray starts the group again."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def watched(seconds: int) -> Iterator[None]:
    """Ends this process, with its stacks in the log, where what is inside takes longer."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
