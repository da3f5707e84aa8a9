"""The pace of requests: limits on requests and tokens per minute, pauses that a server asks for, and waits before retries."""

from __future__ import annotations

import email.utils
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from medray.config.backends import LimitsConfig

MINUTE = 60.0


class Pace:
    """Decides when the next request may be sent. Threads share one.

    The limits hold for every window of 60 seconds. now: a clock in seconds, for tests.
    """

    def __init__(self, limits: LimitsConfig, now: Callable[[], float] = time.monotonic) -> None:
        self._requests, self._tokens, self._now = limits.requests_per_minute, limits.tokens_per_minute, now
        self._sent: deque[tuple[float, int]] = deque()
        self._window_tokens = 0
        self._paused_until = float("-inf")
        self._lock = threading.Lock()

    def delay(self, tokens: int) -> float:
        """Return 0 and count the request as sent now, or return the seconds to wait before asking again.

        tokens: of the prompt and the longest reply. A request above the limit by itself is sent when the window is empty.
        """
        with self._lock:
            now = self._now()
            if now < self._paused_until:
                return self._paused_until - now
            while self._sent and self._sent[0][0] + MINUTE <= now:
                self._window_tokens -= self._sent.popleft()[1]
            if self._sent and not self._fits(tokens):
                return self._sent[0][0] + MINUTE - now
            self._sent.append((now, tokens))
            self._window_tokens += tokens
            return 0.0

    def _fits(self, tokens: int) -> bool:
        if self._requests is not None and len(self._sent) >= self._requests:
            return False
        return self._tokens is None or self._window_tokens + tokens <= self._tokens

    def pause(self, seconds: float) -> None:
        """Send nothing for this many seconds: the server asked all requests to wait."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._now() + seconds)


def retry_wait(limits: LimitsConfig, seed: int, key: str, attempt: int) -> float:
    """Return the seconds to wait before retry `attempt` (from 1) of a request: exponential, with jitter.

    The jitter takes away up to half. It depends on seed, key and attempt only, so that it can be repeated.
    """
    longest = min(limits.longest_wait_seconds, limits.first_wait_seconds * 2.0 ** (attempt - 1))
    digest = hashlib.sha256(f"{seed}\0{key}\0{attempt}".encode()).digest()
    return longest * (0.5 + 0.5 * int.from_bytes(digest[:8], "big") / 2**64)


def retry_after(value: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Return the seconds of a Retry-After header, which contains seconds or a date; None if absent or unreadable."""
    if value is None:
        return None
    text = value.strip()
    if text.replace(".", "", 1).isascii() and text.replace(".", "", 1).isdigit():
        return float(text[:20])
    try:
        until = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - now()).total_seconds())
