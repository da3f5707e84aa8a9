"""The state of a run, read from its folder: from another terminal, from another machine, or after its end."""

from __future__ import annotations

import statistics
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.report import run_log
from medray.report.console import duration, number
from medray.storage import StoragePath
from medray.tracking.step_file import read_records
from medray.train import stop
from medray.train.run_folder import files, lock

PACE_STEPS = 20
STATES = ("running", "done", "stopped", "failed", "not running")


@dataclass(frozen=True)
class RunState:
    """The state of a run. Times are seconds since the epoch.

    state: one of STATES; a run is `not running` if it was killed or has not begun.
    """

    folder: str
    state: str
    holder: str | None = None
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    seconds_left: float | None = None
    evaluation: dict[str, Any] | None = None
    starts: int = 0
    reason: str | None = None
    stop_asked_at: float | None = None
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of a table for the console."""
        state = f"running{self.holder}" if self.state == "running" else self.state
        rows: list[tuple[str, ...]] = [("state", state)]
        if self.stop_asked_at is not None and self.state != "done":
            rows.append(("stop", f"requested {_clock(self.stop_asked_at)}"))
        if self.reason:
            rows.append(("reason", self.reason))
        of = f" of {self.steps:,}" if self.steps else ""
        loss = f", loss {number(self.loss)}" if self.loss is not None else ""
        left = f", {duration(self.seconds_left)} left" if self.seconds_left else ""
        rows.append(("step", f"{self.step:,}{of}{loss}{left}"))
        if self.evaluation:
            metrics = "  ".join(
                f"{name} {number(value)}" for name, value in self.evaluation["metrics"].items()
            )
            rows.append(("evaluation", f"step {self.evaluation['step']}: {metrics}"))
        rows.append(("starts", str(self.starts)))
        rows += [("warning", text) for text in self.warnings]
        rows.append(("folder", self.folder))
        return rows


def read(folder: StoragePath) -> RunState:
    """Read the state of a run. Raises OSError if storage cannot be reached, InputError if the folder holds no run."""
    holder = lock.holder(folder)
    steps, evaluations = (read_records(folder / name) for name in ("steps.jsonl", "evals.jsonl"))
    try:
        summary = files.read_summary(folder) or {}
    except InputError:
        summary = {}
    asked = stop.asked_at(folder)
    if holder is None and not summary and asked is None and not (folder / files.CONFIG).exists():
        raise InputError(
            "this folder holds no run", file=folder, fix="use <run.storage>/<run.name>, or the run's config"
        )
    step = int(steps[-1]["step"]) if steps else 0
    total = _total(folder)
    ended = str(summary.get("status", "not running"))
    if holder is None and ended != "done" and step > int(summary.get("steps") or 0):
        ended = "not running"  # a later start resumed, and was killed
    state = "running" if holder is not None else ended if ended in STATES else "not running"
    return RunState(
        folder=str(folder),
        state=state,
        holder=holder,
        step=step,
        steps=total,
        loss=steps[-1].get("loss") if steps else None,
        seconds_left=_left(steps, total) if state == "running" else None,
        evaluation=_last(evaluations),
        starts=files.attempts(folder),
        reason=str(summary.get("reason")) if state == "failed" and summary.get("reason") else None,
        stop_asked_at=asked,
        warnings=[str(each.get("text")) for each in summary.get("warnings", []) if isinstance(each, dict)]
        if state == "done"
        else [],
    )


def log_text(folder: StoragePath) -> str:
    """Return the run's console log, with the older part that was rotated out. Empty if there is none, or it cannot be used."""
    found = ""
    for name in (f"{run_log.FILE}.1", run_log.FILE):
        with suppress(FileNotFoundError, InputError):
            found += storage.read_bounded(folder / name, 4 * run_log.LARGEST).decode(errors="replace")
    return found


def _total(folder: StoragePath) -> int | None:
    try:
        notes = files.read_data_notes(folder / files.DATA)
    except InputError:
        return None
    return int(notes["steps"]) if notes.get("steps", "").isdecimal() and notes["steps"] != "0" else None


def _left(steps: list[dict[str, Any]], total: int | None) -> float | None:
    paces = [float(line["seconds"]) for line in steps[-PACE_STEPS:] if line.get("seconds")]
    if not paces or total is None:
        return None
    return statistics.median(paces) * max(0, total - int(steps[-1]["step"]))


def _last(evaluations: list[dict[str, Any]]) -> dict[str, Any] | None:
    found = [each for each in evaluations if isinstance(each.get("metrics"), dict)]
    return {"step": found[-1]["step"], "metrics": found[-1]["metrics"]} if found else None


def _clock(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("at %Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "at an unreadable time"
