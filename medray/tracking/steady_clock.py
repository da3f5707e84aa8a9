"""Time of day that never goes back: read once from the system, then counted by the monotonic clock."""

from __future__ import annotations

import time


class SteadyClock:
    """A clock that is set by hand or by NTP in the middle of a run changes neither order nor distances of time stamps."""

    def __init__(self) -> None:
        # Before 1970, a clock without a battery: MLflow refuses negative time stamps.
        self._start = max(time.time(), 0.0) - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._start + time.monotonic()

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return int(self.now() * 1000)
