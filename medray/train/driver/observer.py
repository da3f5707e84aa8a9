"""Observers of a run: they show what it is doing, and end its waits if it was told to stop."""

from __future__ import annotations

import time
from typing import Any, Protocol

from medray.errors import StoppedError
from medray.train.stop import StopSwitch

STOP_SECONDS = 15  # time for workers that wait for data to reach the next step and save


class Console(Protocol):
    def phase(self, name: str, detail: str = "") -> None: ...
    def show(self, record: dict[str, Any], *, total_steps: int) -> None: ...
    def heartbeat(self) -> None: ...
    def table(self, title: str, rows: list[tuple[str, ...]]) -> None: ...


class Observer(Protocol):
    """A receiver of news, called often while the run waits."""

    def phase(self, name: str, detail: str = "") -> None: ...
    def beat(self) -> None:
        """Show that the run is alive. Called often during a wait; may raise StoppedError."""


class RunObserver:
    """The observer of a whole run: it follows the workers' news, so it knows whether they will notice a stop request.

    steps: number of steps of the whole run, for the console; 0 until it is known.
    """

    def __init__(self, console: Console | None, stop: StopSwitch) -> None:
        self.stop = stop
        self.steps = 0
        self.stepping = False  # whether there are workers that will see a stop after their next step
        self._console = console
        self._waits_for: str | None = None  # what the workers wait for; they see no stop meanwhile
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
        """Raise StoppedError if a stop was asked for that no worker would see.

        This is so while data are prepared, a group waits for a node, or an export is evaluated.
        """
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
