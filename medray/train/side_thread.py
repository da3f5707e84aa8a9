"""Work in a side thread, so that the main thread keeps signals and console: Ray's `fit()` installs no handlers there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class SideThread:
    """Starts `action` at once. A daemon: an end of the main thread does not wait for it."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def running(self, wait_seconds: float) -> bool:
        """Whether it still runs after at most `wait_seconds`."""
        self._thread.join(wait_seconds)
        return self._thread.is_alive()

    def result(self) -> Any:
        """What `action` returned; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._action()
        except BaseException as error:
            self._error = error
