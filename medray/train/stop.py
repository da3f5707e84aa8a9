"""That a run shall stop: set from a signal handler, which exists before anything heavy is imported."""

from __future__ import annotations


class StopSwitch:
    """The driver passes it on to the ledger, and rank 0 reads it there. signal: 0 until there was one."""

    def __init__(self) -> None:
        self.signal = 0

    def request(self, signal: int) -> None:
        self.signal = signal

    @property
    def reason(self) -> str | None:
        return f"signal {self.signal}" if self.signal else None
