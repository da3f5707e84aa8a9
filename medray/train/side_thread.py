"""A side thread for blocking work. The main thread keeps signals and console; in a side thread, Ray's `fit()` installs no
signal handlers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class SideThread:
    """A thread that starts `action` immediately. It is a daemon: the process ends without waiting for it."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def running(self, wait_seconds: float) -> bool:
        """Wait for the end of `action` for at most `wait_seconds`, and return whether it is still running."""
        self._thread.join(wait_seconds)
        return self._thread.is_alive()

    def result(self) -> Any:
        """Wait for `action`, and return its result or raise its exception."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._action()
        except BaseException as error:
            self._error = error
