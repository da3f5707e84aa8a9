"""Progress of a run in plain text, for a terminal or a log file.

On a terminal, one line is rewritten for each step. In a file, the first and the last step are written, and between
them at most one step every five seconds. Neither is ever silent for a minute: `heartbeat` says what the run is doing.
The output is ASCII only, so that a log reads the same everywhere.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from medray.config.method_specs import split_task
from medray.tracking.mlflow_names import warnings_of

STEP_LINE_SECONDS = 5.0
HEARTBEAT_SECONDS = 20.0
BAR_WIDTH = 20
PACE_STEPS = (
    20  # the pace is the median of this many steps: one slow checkpoint does not double the time left
)


def _is_term(key: str) -> bool:
    """Return whether a record's key is a term of the loss, not one key of a rationale such as `loss/rationale/Age`."""
    return key.startswith("loss/") and not split_task(key.removeprefix("loss/"))[1]


def duration(seconds: float) -> str:
    """Format seconds as `8.4 s`, `45 s`, `12 min 05 s` or `3 h 20 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Format bytes as kB, MB or GB (powers of ten)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


def number(value: object) -> str:
    """Format a metric with four significant digits, and a count with thousands separators."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and value == value // 1):
        return f"{value:,.0f}"
    return f"{value:.2e}" if value != 0 and abs(value) < 1e-3 else f"{value:.4g}"


def status_of(summary: dict[str, Any]) -> str:
    """Return the status in a run's summary in words: `done`, or `done, with 2 warnings`."""
    status, count = str(summary.get("status", "unknown")), len(warnings_of(summary))
    return f"{status}, with {count} warning{'s' if count != 1 else ''}" if count else status


class Stream(Protocol):
    """The interface of a stream that a console writes to."""

    def write(self, text: str, /) -> Any: ...
    def flush(self) -> Any: ...
    def isatty(self) -> bool: ...


class Console:
    """Prints what a run is doing while it is alive.

    interactive: whether one line is rewritten; by default, only if the stream is a terminal. clock: monotonic time in
    seconds.
    """

    def __init__(
        self,
        stream: Stream | None = None,
        *,
        interactive: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream: Stream = sys.stderr if stream is None else stream
        if interactive is None:
            interactive = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._interactive, self._clock = interactive, clock
        self._begun = self._printed = self._phase_begun = clock()
        self._phase = "start"
        self._live = ""  # the line on a terminal that the next line replaces
        self._held = ""  # a step line that came too soon after the one before
        self._step_printed: float | None = None
        self._pace: deque[float] = deque(maxlen=PACE_STEPS)

    def phase(self, name: str, detail: str = "") -> None:
        """Print that a phase begins (cluster, data, model, training, evaluation or export), or a detail of this phase."""
        self._flush()
        if name != self._phase:
            self._phase, self._phase_begun = name, self._clock()
            self._step_printed = None
        self._print(name, detail)

    def show(self, record: dict[str, Any], *, total_steps: int) -> None:
        """Print one record of the ledger, such as a step. For an unknown kind of record, only the kind is printed."""
        kind = record.get("kind", "message")
        if kind == "step":
            self._show_step(record, total_steps)
        elif kind == "evaluation":
            metrics = "  ".join(f"{name} {number(value)}" for name, value in record["metrics"].items())
            self._print("evaluation", f"step {record['step']}  {metrics}")
        elif kind == "checkpoint":
            self._print("checkpoint", _checkpoint(record))
        elif kind == "phase":
            self.phase(str(record.get("name", "")), str(record.get("detail", "")))
        elif kind in ("message", "failure"):
            self._print("note", str(record.get("text", "")))
        else:
            self._print(str(kind), str(record.get("text", "")))

    def heartbeat(self) -> None:
        """Print the current phase if nothing was printed for HEARTBEAT_SECONDS. Call this method often."""
        now = self._clock()
        if now - self._printed >= HEARTBEAT_SECONDS:
            line = f"{self._stamp()} still {self._phase}: {duration(now - self._phase_begun)}"
            if self._held:
                self._flush()
            elif self._interactive:
                self._rewrite(line)
            else:
                self._write(line + "\n")

    def table(self, title: str, rows: list[tuple[str, ...]]) -> None:
        """Print a small table. Columns are as wide as their widest cell; numbers are aligned to the right."""
        self._flush()
        widths = [
            max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows), default=0))
        ]
        right = [all(_is_number(row[i]) for row in rows if i < len(row)) for i in range(len(widths))]
        lines = [title]
        for row in rows:
            cells = [c.rjust(widths[i]) if right[i] else c.ljust(widths[i]) for i, c in enumerate(row)]
            lines.append(("  " + "  ".join(cells)).rstrip())
        self._write("\n".join(lines) + "\n")

    def progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Print a progress bar on a terminal; in a log file, one line every STEP_LINE_SECONDS and at the end."""
        filled = BAR_WIDTH * done // max(total, 1)
        bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done}/{total}  {detail}"
        self._passing(f"{self._stamp()} {name:<11} {bar}".rstrip(), last=done >= total)

    def _show_step(self, record: dict[str, Any], total_steps: int) -> None:
        if record.get("seconds"):
            self._pace.append(float(record["seconds"]))
        line = f"{self._stamp()} {'step':<11} {self._step_text(record, total_steps)}"
        self._passing(line, last=int(record["step"]) >= total_steps)

    def _passing(self, line: str, *, last: bool) -> None:
        """Print a line that the next line of its kind replaces."""
        now = self._clock()
        due = self._step_printed is None or now - self._step_printed >= STEP_LINE_SECONDS
        if self._interactive:
            self._rewrite(line)
        elif due or last:
            self._held, self._step_printed = "", now
            self._write(line + "\n")
        else:
            self._held = line

    def _step_text(self, record: dict[str, Any], total_steps: int) -> str:
        step = int(record["step"])
        parts = [f"{step:>{len(str(total_steps))}}/{total_steps}"]
        tasks = {key.removeprefix("loss/"): record[key] for key in record if _is_term(key)}
        loss = f"loss {record['loss']:.4f}" if record.get("loss") is not None else ""
        if len(tasks) > 1:
            loss += " (" + ", ".join(f"{name} {value:.4f}" for name, value in tasks.items()) + ")"
        parts.append(loss)
        if self._pace:
            pace = statistics.median(self._pace)
            if record.get("tokens") is not None and record.get("seconds"):
                parts.append(f"{record['tokens'] / record['seconds']:,.0f} tokens/s")
            if step < total_steps:
                parts.append(f"{duration(pace * (total_steps - step))} left")
        return "  ".join(part for part in parts if part)

    def _stamp(self) -> str:
        return f"[{duration(self._clock() - self._begun):>9}]"

    def _print(self, name: str, detail: str) -> None:
        self._write(f"{self._stamp()} {name:<11} {detail}".rstrip() + "\n")

    def _flush(self) -> None:
        """Keep the newest step line on the screen, or write it to the log."""
        if self._live:
            self._live = ""
            self._raw("\n")
        if self._held:
            line, self._held = self._held, ""
            self._write(line + "\n")

    def _rewrite(self, line: str) -> None:
        self._live = line[: max(20, shutil.get_terminal_size().columns - 1)]
        self._raw(f"\r{self._live}\x1b[K")

    def _write(self, text: str) -> None:
        """Write complete lines above the status line, and draw the status line again."""
        self._raw(f"\r\x1b[K{text}{self._live}" if self._live else text)

    def _raw(self, text: str) -> None:
        self._printed = self._clock()
        try:
            self._stream.write(text)
            self._stream.flush()
        except (
            OSError,
            ValueError,
        ):  # nobody reads any more (`| head`, a closed terminal): the run continues
            pass


def _checkpoint(record: dict[str, Any]) -> str:
    facts = []
    if record.get("bytes") is not None:
        facts.append(size(float(record["bytes"])))
    if record.get("seconds") is not None:
        facts.append(duration(float(record["seconds"])))
    return f"step {record.get('step', '?')} saved" + (f" ({', '.join(facts)})" if facts else "")


def _is_number(text: str) -> bool:
    return text.strip().removeprefix("-")[:1].isdigit()
