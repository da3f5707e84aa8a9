"""Observers of a run: they are told what it is doing, and hear that it was told to stop."""

from __future__ import annotations

import time
from typing import Any, Protocol

from medray.errors import StoppedError
from medray.train.stop import StopSwitch

STOP_SECONDS = 15  # in which workers that wait for data may still reach the next step, and save


class Console(Protocol):
    def phase(self, name: str, detail: str = "") -> None: ...
    def show(self, record: dict[str, Any], *, total_steps: int) -> None: ...
    def heartbeat(self) -> None: ...
    def table(self, title: str, rows: list[tuple[str, ...]]) -> None: ...


class Observer(Protocol):
    """A receiver of news, asked often while the run waits."""

    def phase(self, name: str, detail: str = "") -> None: ...
    def beat(self) -> None:
        """Called often while something is waited for. May raise StoppedError."""


class RunObserver:
    """The observer of a whole run: it follows the workers' news and knows whether they will see a stop.

    steps: of the whole run, for the console, once they are known.
    """

    def __init__(self, console: Console | None, stop: StopSwitch) -> None:
        self.stop = stop
        self.steps = 0
        self.stepping = False  # whether there are workers that will see a stop after their next step
        self._console = console
        self._waits_for: str | None = None  # workers that wait for it see no stop meanwhile
        self._stop_heard: float | None = None

    def phase(self, name: str, detail: str = "") -> None:
        if self._console:
            self._console.phase(name, detail)

    def hear(self, record: dict[str, Any]) -> None:
        """Show a record of the workers' news, and remember what it says about them."""
        kind = record["kind"]
        if kind in ("step", "phase", "failure", "waiting"):
            self._waits_for = str(record["text"]) if kind == "waiting" else None
        if kind == "failure":
            self.stepping = False
        elif kind == "phase" and record["name"] in ("training", "export"):
            self.stepping = record["name"] == "training"  # before the export everything has been saved
        if self._console:
            self._console.show(record, total_steps=self.steps)

    def beat(self) -> None:
        """Raise StoppedError where a stop was asked for that no worker would see: data are prepared, a group waits for
        a node, an export is evaluated."""
        if self._console:
            self._console.heartbeat()
        if not self.stop.reason:
            return
        self._stop_heard = self._stop_heard or time.monotonic()
        if self._waits_for and time.monotonic() - self._stop_heard > STOP_SECONDS:
            raise StoppedError(
                f"stopped while the workers waited for {self._waits_for}. Run the same command again to resume from the "
                "newest checkpoint"
            )
        if not self.stepping:
            raise StoppedError(
                "stopped while no worker was training: there was nothing new to save. Run the same command again to resume"
            )
