"""The driver of a search: it prepares the tokens, runs the trials by Ray Tune, and writes the result.

Like `medray.train.run`, it neither starts Ray nor touches signals.
"""

from __future__ import annotations

import math
import os
import queue
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from medray import storage
from medray.config import Config
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError, MedrayError, RunFailedError, StoppedError
from medray.plan.model_config import ModelDescription
from medray.plan.resources import Supply, plural
from medray.report.console import duration, number
from medray.storage import StoragePath
from medray.train.driver.nodes import awaited
from medray.train.driver.observer import Console, RunObserver
from medray.train.failure import last_line
from medray.train.run_folder import lock
from medray.train.run_folder.earlier_run import finished_result
from medray.train.run_folder.files import folder_of
from medray.train.side_thread import SideThread
from medray.train.stop import StopSwitch, watching
from medray.tune import board as boards
from medray.tune import claim, results
from medray.tune.board import PAUSE
from medray.tune.checks import tune_of
from medray.tune.earlier import trials_left
from medray.tune.memory import check_together
from medray.tune.page import curve, write_page
from medray.tune.parent_run import OPEN_SECONDS, end, opening, parent_run
from medray.tune.points import label
from medray.tune.results import SearchResult
from medray.tune.scheduler import StopByRequest, scheduler
from medray.tune.searcher import StateSearcher
from medray.tune.share import Share, share
from medray.tune.state import SearchState
from medray.tune.tokens import prepare_all
from medray.tune.trial import done, run_trial
from medray.tune.trials import Trial, TrialFiles, trial_config

POLL_SECONDS = 0.5
TABLE_SECONDS = 60.0  # between two tables of the running trials
NOTE_SECONDS = 10.0  # between two notes of the time that is used
SPARE_SECONDS = 60.0  # after cluster.hang_seconds and these, a search ends without trials that do not answer
# Tune's own loggers and result buffers, and copies of its state: the search has its own.
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run(
    config: Config,
    *,
    console: Console | None = None,
    stop: StopSwitch | None = None,
    config_file: str | Path | None = None,
) -> SearchResult:
    """Run the search of `config` on the connected Ray cluster to its end, to a budget, or to a stop.

    A search that was stopped or killed continues: trials that have ended are not repeated, and others resume from their
    checkpoints. console, stop, config_file: the same as in `medray.train.run`.
    Raises InputError before any trial begins, RunFailedError if no trial is complete at the end, and StoppedError if it
    was told to stop before its first trial.
    """
    os.umask(0o077)
    stop = stop or StopSwitch()
    observer, folder = RunObserver(console, stop), folder_of(config)
    with lock.held(folder, lambda text: observer.phase("lock", text)), watching(folder, stop):
        notes = claim.claim(config, lambda note: observer.phase("resume", note))
        config = claim.kept(notes, config)
        with awaited(config, None, observer) as have:
            granted = share(config, have, trials_left(config))
        seconds = notes.seconds if notes else 0.0
        search = _Search(config, granted, have, observer, console, stop, seconds, config_file)
        try:
            search.prepare()
            search.run()
        except MedrayError as error:
            search.end_tracking({"status": "stopped" if isinstance(error, StoppedError) else "failed"})
            raise
        finally:
            search.note()
        return search.finish()


class _Search:
    """One start of a search."""

    def __init__(
        self,
        config: Config,
        granted: Share,
        have: Supply,
        observer: RunObserver,
        console: Console | None,
        stop: StopSwitch,
        seconds: float,
        config_file: str | Path | None,
    ) -> None:
        self.config, self.granted, self.tune = config, granted, tune_of(config)
        self._have = have
        self.folder = folder_of(config)
        self.state = SearchState(config, granted, TrialFiles(self.folder))
        self._observer, self._console, self._stop = observer, console, stop
        self._config_file = None if config_file is None else str(config_file)
        self._parent = parent_run(config, config_file)
        self._seconds_before, self._began = seconds, time.monotonic()
        self._noted = self._shown = time.monotonic()
        self._lines: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()  # from the thread of Ray Tune
        self._best: int | None = None  # number of the trial in best.yaml
        self._spent: str | None = None  # the budget that ended the search
        self._news: dict[int, dict[str, Any]] = {}

    @property
    def seconds(self) -> float:
        """Return the seconds of all starts of the search."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def gpu_hours(self) -> float:
        """Return the GPU-hours of all trials so far."""
        return self.granted.workers * self.granted.gpus * self.state.trial_seconds() / 3600

    def prepare(self) -> None:
        """Say what the search will do, record trials whose end is not recorded yet, and write the token shards."""
        granted, tune_config = self.granted, self.tune
        self._observer.phase(
            "search",
            f"{tune_config.how} over {', '.join(tune_config.space)}; best by {tune_config.metric}, "
            f"{'lower' if tune_config.lower_is_better else 'higher'} is better",
        )
        gpu = f", {granted.gpus} GPU" if granted.gpus else ""
        self._observer.phase(
            "share",
            f"{plural(granted.concurrent, 'trial')} at a time, each with {plural(granted.workers, 'worker')} of "
            f"{granted.cpus:g} CPU{gpu} and {plural(granted.threads, 'thread')}",
        )
        if tune_config.max_gpu_hours is not None and not granted.gpus:
            self._observer.phase("note", "tune.max_gpu_hours has no effect: the workers have no GPUs")
        opened = opening(self._parent) if self._parent is not None else None
        self._recover()
        if trials_left(self.config):
            prepare_all(self.config, self._observer, self._check_memory)
        waited = time.monotonic()
        while (
            opened is not None and opened.running(POLL_SECONDS) and time.monotonic() - waited < OPEN_SECONDS
        ):
            self._observer.beat()
        self.note()

    def run(self) -> None:
        """Run the trials that are left, until all have ended or the search was told to stop."""
        self._check_budget()
        if self.state.ending is not None or not self.state.left():
            return
        os.environ.update(ENVIRONMENT)
        board = boards.start()
        searcher = StateSearcher(self.state, self._say_begun, self._say_ended)
        stopper = scheduler(self.tune.scheduler, lower=self.tune.lower_is_better, ask=self.state.stop)
        self._recall(stopper)
        tuner = self._tuner(board, searcher, stopper)
        thread, stopped = SideThread(tuner.fit), math.inf
        while thread.running(POLL_SECONDS):
            self._look(board)
            if self.state.ending is not None:
                stopped = min(stopped, time.monotonic())
                if time.monotonic() - stopped > self.config.cluster.hang_seconds + SPARE_SECONDS:
                    self._observer.phase(
                        "WARNING", "a trial does not answer. Run the same command again to resume it"
                    )
                    break
        else:
            try:
                thread.result()
            except MedrayError:
                raise
            except OSError as error:
                raise RunFailedError(f"{self.folder} could not be used ({storage.summary(error)})") from error
            except Exception as error:
                raise RunFailedError(
                    f"the search failed: {last_line(error)}. Run the same command again to continue"
                ) from error
        self._print_lines()
        ray.kill(board)

    def note(self) -> None:
        """Write down the time that the search has used."""
        with suppress(OSError):
            claim.write_notes(self.folder, self.granted, self.seconds)

    def finish(self) -> SearchResult:
        """Write the summary and return the result. Raises RunFailedError if the search is over without a complete trial."""
        trials = self.state.snapshot()
        storage.remove_tree(self.folder / ".ray")
        stopped = bool(self._stop.reason) and self.state.left()
        complete = bool(results.ranked(trials, lower=self.tune.lower_is_better))
        status = "stopped" if stopped else "done" if complete else "failed"
        summary = results.summarize(
            self.config,
            trials,
            status=status,
            seconds=self.seconds,
            gpu_hours=self.gpu_hours,
            ended_by=self._spent,
        )
        with suppress(OSError):  # the numbers are in summary.json
            write_page(self.config, trials, summary)
        self.end_tracking(summary)
        if status == "failed":
            raise RunFailedError(self._why_nothing(trials))
        return SearchResult(self.folder, summary)

    def end_tracking(self, summary: dict[str, Any]) -> None:
        """End the MLflow run of the search, if it has one."""
        if self._parent is not None:
            end(self._parent, summary, self._observer.phase)

    def _check_memory(self, config: Config, model: ModelDescription, tokens: TokenSet) -> None:
        check_together(config, model, self._have, self.granted, tokens)

    def _tuner(self, board: Any, searcher: StateSearcher, stopper: StopByRequest) -> tune.Tuner:
        trainable = partial(
            run_trial,
            search=self.config,
            share=self.granted,
            board=board,
            config_file=self._config_file,
            parent=self._parent,
        )
        # A trial is a driver without a CPU of its own; Ray Tune does not accept a bundle without any resource.
        resources = tune.PlacementGroupFactory([{"memory": 1 << 20}])
        return tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=stopper,
                num_samples=-1,
                reuse_actors=True,  # a process that has imported torch and Ray runs the next trial at once
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"tune-{time.time_ns()}",
                **_ray_storage(self.folder / ".ray"),
                failure_config=tune.FailureConfig(max_failures=self.config.cluster.max_failures),
                verbose=0,
            ),
        )

    def _recover(self) -> None:
        """Record trials whose runs have ended, but whose search was killed before it could write that down."""
        for each in self.state.snapshot().values():
            if each.state != "begun":
                continue
            with suppress(InputError):
                result = finished_result(trial_config(self.config, self.granted, each))
                if result is not None:
                    self._say_ended(
                        self.state.ended(each.number, asdict(done(result.summary, self.tune.metric)))
                    )
        self._print_lines()

    def _recall(self, stopper: StopByRequest) -> None:
        """Tell the scheduler the evaluations of trials that have ended in an earlier start."""
        for each in self.state.snapshot().values():
            if each.state == "begun":
                continue
            stopper.recall(each.number, curve(self.config, each, self.tune.metric))

    def _look(self, board: Any) -> None:
        """Tell trials to stop if they must, collect their news, and check the budgets."""
        if self._stop.reason and self.state.ending is None:
            self.state.ending = "stop"
            self._observer.phase(
                "stop", f"{plural(len(self.state.live), 'trial')} to save after the current step"
            )
        self._check_budget()
        with suppress(ray.exceptions.RayError, TimeoutError):
            orders = board.order.remote(self.state.stop_orders, PAUSE if self.state.ending else None)
            self._news = ray.get(orders, timeout=5)
        self._print_lines()
        now = time.monotonic()
        if now - self._noted > NOTE_SECONDS:
            self._noted = now
            self.note()
        if now - self._shown > TABLE_SECONDS:
            self._show_table()
        if self._console:
            self._console.heartbeat()

    def _check_budget(self) -> None:
        """End the search if it has used up a budget."""
        budgets = {
            "max_seconds": (self.tune.max_seconds, self.seconds),
            "max_gpu_hours": (self.tune.max_gpu_hours, self.gpu_hours),
        }
        for name, (limit, value) in budgets.items():
            if limit is not None and value >= limit and self.state.ending is None:
                self.state.ending = self._spent = name
                self._observer.phase(
                    "budget",
                    f"tune.{name} is reached: running trials save and stop, and no other begins. Set a higher limit to continue",
                )

    def _say_begun(self, trial: Trial) -> None:
        again = " continues" if trial.step else ""
        seed = f", seed {trial.seed}" if self.tune.seeds > 1 else ""
        self._lines.put(("trials", f"{trial.number}{again}: {label(trial.values)}{seed}"))

    def _say_ended(self, trial: Trial) -> None:
        """Show the end of a trial, and update best.yaml and the exports that are kept."""
        if trial.state == "begun":
            self._lines.put(("trials", f"{trial.number} saved at step {trial.step}"))
            return
        value = f", {self.tune.metric} {number(trial.value)}" if trial.value is not None else ""
        reason = f" ({trial.reason})" if trial.reason else ""
        trials = self.state.snapshot()
        ranking = results.ranked(trials, lower=self.tune.lower_is_better)
        best = ""
        if ranking and (leader := ranking[0].done[0]).number != self._best:
            self._best = leader.number
            results.write_best(self.config, self.granted, leader, ranking[0].value)
            best = ", the best so far" if leader.configuration == trial.configuration else ""
        self._lines.put(("trials", f"{trial.number} {trial.state} at step {trial.step}{value}{best}{reason}"))
        for each in results.to_remove(trials, self.tune.keep_exports, lower=self.tune.lower_is_better):
            results.remove_weights(self.config, each)
            self.state.update(each.number, kept=False)

    def _print_lines(self) -> None:
        while not self._lines.empty():
            name, text = self._lines.get()
            self._observer.phase(name, text)

    def _show_table(self) -> None:
        """Show the running trials, and the best so far."""
        self._shown = time.monotonic()
        if self._console is None:
            return
        live, trials = self.state.running(), self.state.snapshot()
        ended = sum(trial.state != "begun" for trial in trials.values())
        rows: list[tuple[str, ...]] = [("trial", "step", "loss", "phase", "values")]
        for each in live:
            news = self._news.get(each, {})
            step = f"{news.get('step', 0)}/{news.get('steps', 0)}" if news.get("steps") else "-"
            loss = number(news["loss"]) if news.get("loss") is not None else "-"
            rows.append((str(each), step, loss, str(news.get("phase", "start")), label(trials[each].values)))
        if self._best is not None:
            best = trials[self._best]
            rows.append((str(best.number), "best", number(best.value), best.state, label(best.values)))
        self._console.table(f"{plural(ended, 'trial')} ended after {duration(self.seconds)}", rows)

    def _why_nothing(self, trials: dict[int, Trial]) -> str:
        if self._spent:
            return (
                f"tune.{self._spent} was reached before a trial was complete; what has begun is saved. Fix: run the same "
                f"command with a higher tune.{self._spent}, which continues the search"
            )
        failed = [trial for trial in trials.values() if trial.state == "failed"]
        if failed:
            return f"no trial is complete; {len(failed)} failed, the first with: {failed[0].reason}"
        return f"no trial is complete with a finite {self.tune.metric}"


def _ray_storage(folder: StoragePath) -> dict[str, Any]:
    """Return the storage arguments for Ray Tune's own files, which all nodes must reach."""
    if isinstance(folder, Path):
        return {"storage_path": str(folder)}
    return {"storage_path": folder.key, "storage_filesystem": folder.filesystem}
