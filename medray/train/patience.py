"""Tries again what storage refuses, for as long as the user said (train.save_patience_minutes)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from medray import storage

LONGEST_PAUSE_SECONDS = 15.0

T = TypeVar("T")


class Patience:
    """Of one task: its seconds begin now. troubled: told once, with the system's reason; what: what cannot be done."""

    def __init__(self, seconds: float, what: str, troubled: Callable[[str], None]) -> None:
        self._until, self._what, self._troubled = time.monotonic() + seconds, what, troubled
        self._told, self._pause = False, 0.5

    def attempt(self, act: Callable[..., T], *arguments: Any) -> T:
        """What `act` returns of the arguments. Raises TimeoutError with the last reason when the time is up."""
        while True:
            try:
                return act(*arguments)
            except OSError as error:
                reason = reason_of(error)
                if not self._told:
                    self._troubled(f"{self._what} and is tried again: {reason}")
                    self._told = True
                self.pause(self._pause, reason)
                self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def pause(self, seconds: float, reason: str) -> None:
        if time.monotonic() > self._until:
            raise TimeoutError(reason)
        time.sleep(seconds)


def reason_of(error: BaseException) -> str:
    """In one line. Of a patience that ended: what was tried, as a sentence."""
    if isinstance(error, TimeoutError):
        return str(error)
    return storage.summary(error) if isinstance(error, OSError) else str(error) or type(error).__name__
