"""One trial inside Ray Tune: a whole `medray.train.run` in this process, whose evaluations are reported as they come."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray import tune

from medray import train
from medray.config import Config
from medray.errors import MedrayError, StoppedError
from medray.report.console import Console
from medray.report.run_log import RunLog
from medray.storage import StoragePath
from medray.tracking import EVALS_FILE, ParentRun
from medray.tracking.step_file import read_records
from medray.train.failure import last_line
from medray.train.run_folder import files, lock
from medray.train.run_folder.files import folder_of
from medray.train.stop import StopSwitch, begin
from medray.tune.board import PAUSE
from medray.tune.checks import tune_of
from medray.tune.scheduler import FINAL, NUMBER, PROGRESS, VALUE, WHOLE
from medray.tune.share import Share
from medray.tune.trials import TrialFiles, read_trial, trial_config

OUTCOME = "outcome"  # key of the last result: an `Outcome` as JSON
TELL_SECONDS, ANSWER_SECONDS = 0.5, 5.0
HOLDER_SECONDS = 60  # until Ray has ended the trial of a search that was killed


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of one start of a trial. state: as `Trial` has it, or PAUSE: it continues with the next start of the search.

    seconds: of this start. Other fields are those of `Trial`.
    """

    state: str
    reason: str | None = None
    metrics: dict[str, float | None] | None = None
    value: float | None = None
    step: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


class TrialSwitch(StopSwitch):
    """The stop switch of a trial's run. order: from the board. stepping: whether the workers compute steps now.

    A pause is heard at once. A stop of this trial alone waits until its workers save at their next step: a run that is
    left while its workers start would keep them, in a process that Ray Tune uses again; and a run whose last step is
    computed always exports.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order: str | None = None
        self.stepping = False

    @property
    def reason(self) -> str | None:
        if self.order == PAUSE:
            return PAUSE
        if not self.stepping:
            return None
        return "request" if self.on_request else self.order


class TrialConsole:
    """The console of a trial's run: it writes the run's log, reports evaluations, and asks the board for orders.

    metric: name of the metric that is compared.
    """

    def __init__(self, log: Console, number: int, metric: str, board: Any, switch: TrialSwitch) -> None:
        self._log, self._number, self._metric, self._board, self._switch = log, number, metric, board, switch
        self._asked = 0.0
        self.step, self.steps, self.loss = 0, 0, None
        self.phase_name = "start"
        self.evaluated: dict[str, float] = {}

    def phase(self, name: str, detail: str = "") -> None:
        self.phase_name = name
        self._log.phase(name, detail)
        self.heartbeat()

    def show(self, record: dict[str, Any], *, total_steps: int) -> None:
        self._log.show(record, total_steps=total_steps)
        kind = record.get("kind")
        if kind == "phase":
            self.phase_name = str(record.get("name", ""))
            self._switch.stepping = self.phase_name == "training"
        elif kind == "step":
            self.step, self.steps, self.loss = int(record["step"]), total_steps, record.get("loss")
            self._switch.stepping = self.step < total_steps
        elif kind in ("failure", "waiting"):
            self._switch.stepping = False
        elif kind == "evaluation" and record["step"]:
            self.evaluated = dict(record["metrics"])
            report(self._number, int(record["step"]), total_steps, self.evaluated.get(self._metric))

    def report_recorded(self, folder: StoragePath) -> None:
        """Report the evaluations of an earlier start, so that a scheduler knows them."""
        steps = files.read_data_notes(folder / files.DATA).get("steps", "")
        total = int(steps) if steps.isdecimal() else 0
        for record in read_records(folder / EVALS_FILE):
            if record["step"] and isinstance(record.get("metrics"), dict):
                self.steps, self.evaluated = total, dict(record["metrics"])
                report(self._number, int(record["step"]), total, self.evaluated.get(self._metric))

    def outcome(self, state: str, reason: str | None, tokens: int = 0) -> Outcome:
        """Return the outcome of a start that did not come to the run's end, with the numbers of the last evaluation."""
        metrics = finite(self.evaluated)
        return Outcome(
            state=state,
            reason=reason,
            metrics=metrics,
            value=metrics.get(self._metric),
            step=self.step,
            steps=self.steps,
            tokens=tokens,
        )

    def heartbeat(self) -> None:
        self._log.heartbeat()
        now = time.monotonic()
        if now - self._asked < TELL_SECONDS:
            return
        self._asked = now
        news = {"phase": self.phase_name, "step": self.step, "steps": self.steps, "loss": self.loss}
        with suppress(ray.exceptions.RayError, TimeoutError):
            self._switch.order = ray.get(self._board.tell.remote(self._number, news), timeout=ANSWER_SECONDS)

    def table(self, title: str, rows: list[tuple[str, ...]]) -> None:
        self._log.table(title, rows)


def report(number: int, step: int, steps: int, value: float | None) -> None:
    """Report an evaluation to Ray Tune; one without the metric is not reported."""
    if value is not None and steps:
        tune.report({NUMBER: number, VALUE: value, PROGRESS: min(WHOLE, WHOLE * step / steps)})


def run_trial(
    given: dict[str, Any],
    *,
    search: Config,
    share: Share,
    board: Any,
    config_file: str | None = None,
    parent: ParentRun | None = None,
) -> None:
    """Run the trial of the number in `given` to its end or to an order, and report its outcome as its last result.

    Errors of the run become its outcome: Ray Tune would begin the trial again.
    """
    os.umask(0o077)
    began, number = time.perf_counter(), int(given[NUMBER])
    trial = read_trial(TrialFiles(folder_of(search)).path(number))
    config = trial_config(search, share, trial)
    log = RunLog(folder_of(config))
    switch, metric = TrialSwitch(), tune_of(search).metric
    console = TrialConsole(Console(log, interactive=False), number, metric, board, switch)
    try:
        outcome = _run(config, metric, console, switch, log, config_file, parent)
    except MedrayError as error:
        log.write(f"medray: {error}\n")
        outcome = console.outcome("failed", str(error))
    except Exception as error:
        outcome = console.outcome("failed", last_line(error))
    finally:
        log.close()
    found = asdict(outcome) | {"seconds": time.perf_counter() - began}
    tune.report(
        {FINAL: True, NUMBER: number, PROGRESS: WHOLE, VALUE: math.nan, OUTCOME: json.dumps(found)}
    )  # as text: Tune flattens dicts


def _run(
    config: Config,
    metric: str,
    console: TrialConsole,
    switch: TrialSwitch,
    log: RunLog,
    config_file: str | None,
    parent: ParentRun | None,
) -> Outcome:
    folder = folder_of(config)
    _await_end(folder, console)
    with lock.held(folder):
        log.begin()
        begin(folder, None)  # a request to an earlier start
        console.report_recorded(folder)
        try:
            result = train.run(config, console=console, stop=switch, config_file=config_file, parent=parent)
        except StoppedError:
            return console.outcome(PAUSE, None)
    if result.summary["status"] == "stopped":
        tokens = int(result.summary.get("tokens") or 0)
        if switch.order == PAUSE:
            return console.outcome(PAUSE, None, tokens)
        return console.outcome("stopped", "on request" if switch.on_request else switch.order, tokens)
    return done(result.summary, metric)


def done(summary: dict[str, Any], metric: str) -> Outcome:
    """Return the outcome of a finished run. value: None where the metric is missing or not finite."""
    metrics = finite(summary["eval"].get("after", {}))
    value = metrics.get(metric)
    return Outcome(
        state="done",
        reason=f"it has no finite {metric}" if value is None else None,
        metrics=metrics,
        value=value,
        step=int(summary["steps"]),
        steps=int(summary["steps"]),
        tokens=int(summary.get("tokens") or 0),
    )


def finite(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return metrics with None for numbers that are not finite: JSON has no others."""
    return {
        name: value if value is not None and math.isfinite(value) else None for name, value in metrics.items()
    }


def _await_end(folder: StoragePath, console: TrialConsole) -> None:
    """Wait until the trial's process of an earlier start, whose search was killed, has been ended by Ray."""
    limit = time.monotonic() + HOLDER_SECONDS
    while lock.holder(folder) is not None and time.monotonic() < limit:
        console.heartbeat()
        time.sleep(TELL_SECONDS)
