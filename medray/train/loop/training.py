"""The worker loop of every rank, from weights to export. Runs under Ray Train, under torchrun, or alone.

`build` makes model and engine, `Training` computes the steps, `finish` chooses the weights and exports them. The loop
talks to the outside through a Reporter only.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from functools import partial

from medray import storage
from medray.methods import MethodLoss
from medray.train import checkpoint
from medray.train.checkpoint.beginning import load_weights
from medray.train.checkpoint.state_files import Retries
from medray.train.checkpoint.writer import CheckpointWriter, WriterOptions
from medray.train.engine.optimizers import learning_rate
from medray.train.loop import live_evaluation
from medray.train.loop.batch_reader import BatchReader, Prepared
from medray.train.loop.build import Built, build
from medray.train.loop.finish import WorkerResult, export_model, load_best, worker_result
from medray.train.loop.interruption import NOTICED, Interruption, killed_when_hung
from medray.train.loop.news import News, Reporter
from medray.train.loop.read_ahead import ReadAhead, Ready
from medray.train.loop.reference import compute_reference
from medray.train.loop.step import Progress, check_finite, train_step
from medray.train.run_folder.files import ATTEMPTS
from medray.train.worker_plan import WorkerPlan

TRAINED = "done"


def run(plan: WorkerPlan, reporter: Reporter) -> WorkerResult:
    """Train to the end, or until a stop is asked for. All ranks return the same status and progress."""
    os.umask(0o077)  # what a run leaves holds patients' text
    news = News(reporter)
    return train(plan, build(plan, news), news)


def train(plan: WorkerPlan, built: Built, news: News) -> WorkerResult:
    """Resume from the newest checkpoint, train, and export if the last step was reached."""
    stopped = compute_reference(plan, built, news)  # before a checkpoint replaces the first weights
    training = resume(plan, built, news)
    if stopped is None:
        training.begin()
    status = stopped or training.run()
    progress, exported, evaluated = training.progress, None, {}
    if status == TRAINED:
        if best := load_best(plan, built, news, _retries(plan, built, news)):
            exported, evaluated = best.progress.step, dict(best.metrics)
        else:
            exported, evaluated = progress.step, training.evaluate(generate=False)
        export_model(plan, built, news)
    if built.engine.rank == 0:
        # A checkpoint has the steps; the ledger itself reports what it could not write.
        with suppress(OSError):
            news.reporter.flush()
    return worker_result(built, news, status, progress, exported, evaluated)


def resume(plan: WorkerPlan, built: Built, news: News) -> Training:
    """Give the engine the state of the newest sound checkpoint, and return the steps from there on."""
    root = storage.at(plan.run_folder) / "checkpoints"
    progress = checkpoint.resume(root, built.engine, news.message, _retries(plan, built, news))
    if progress.step == 0 and plan.begin_from is not None:
        load_weights(plan.begin_from, built.engine, _retries(plan, built, news))
        news.message(f"the run begins with the weights of {plan.begin_from.named} (run.begin_from)")
    return Training(plan, built, news, progress)


def _retries(plan: WorkerPlan, built: Built, news: News) -> Retries:
    seconds = 60 * plan.config.train.save_patience_minutes
    return Retries(seconds, "a checkpoint cannot be read", partial(news.message_of, built.engine.rank))


class Training:
    """The steps of one rank. progress: its start, then its current position; no other attribute changes."""

    def __init__(self, plan: WorkerPlan, built: Built, news: News, progress: Progress) -> None:
        self.plan, self.config, self.built, self.news = plan, plan.config, built, news
        self.engine, self.method, self.progress = built.engine, plan.method, progress
        tokens, window = plan.train, self.config.data.window_shards
        # This window and the next; a merged window may hold as many shards of each corpus.
        keep = 2 * window * max(len(tokens.weights), 1) + 1
        self._store = tokens.store(keep, self.config.cluster.hang_seconds)
        self._batches = tokens.plan(self.config, self._store)
        self._without_rows: set[str] = set()  # tasks for which some step had no rows
        train = self.config.train
        self._writer = CheckpointWriter(
            storage.at(plan.run_folder) / "checkpoints",
            built.engine,
            WriterOptions(train.keep_checkpoints, train.keep_best, 60 * train.save_patience_minutes),
            before_manifest=news.reporter.flush,
            written=lambda step: news.event("checkpoint", step=step),
            troubled=partial(news.message_of, built.engine.rank),
        )

    def begin(self) -> None:
        """Record this attempt, and evaluate before the first step if the config asks for it."""
        if self.engine.rank == 0:
            step, workers = self.progress.step, self.engine.world_size
            attempt = {"time": time.time(), "resumed_step": step, "workers": workers}
            with suppress(OSError):  # a full disk: only the number of restarts in the report lacks one
                storage.append(storage.at(self.plan.run_folder) / ATTEMPTS, json.dumps(attempt) + "\n")
            self.news.reporter.opened(step)
        if self.progress.step == 0:
            live_evaluation.tell_unused_settings(
                self.built.validation, self.engine, self.config.eval, self.news.message
            )
            if self.config.eval.at_start:
                self.evaluate(generate=True)

    def run(self) -> str:
        """Compute the steps that are left. Returns TRAINED, or why training ended before its last step."""
        config, total_steps, resumed = self.config, self.plan.total_steps, self.progress.step
        every = config.train.save_every_steps or max(total_steps // 10, 1)
        interruption = Interruption(self.news.reporter, self.engine, self.news.message)
        self.news.phase("training")
        with self.news.timed("train"), self._read_ahead() as ahead:
            if self._evaluation_due() and self.progress.evaluated != self.progress.step:
                self._save(self.evaluate(generate=True), wait=False)  # a stop came before it
            for ready in ahead:
                with killed_when_hung(config.cluster.hang_seconds):
                    seconds = self._step(ready)
                    reason, step = interruption.asked(step_seconds=seconds), self.progress.step
                if step == total_steps:
                    break
                if reason == NOTICED:
                    interruption.saved(self._save({}, wait=True))
                    reason = None
                metrics: dict[str, float] = {}
                if self._evaluation_due() and not reason:
                    # Evaluated before the checkpoint, so that a resumed run does not miss it.
                    metrics = self.evaluate(generate=True)
                if reason or step % every == 0 or metrics:
                    self._save(metrics, wait=bool(reason))
                if reason:
                    return reason
        if self.progress.step > resumed:
            self._save(self.evaluate(generate=True) if config.train.keep_best else {}, wait=True)
        return TRAINED

    def evaluate(self, *, generate: bool) -> dict[str, float]:
        """Return the metrics of the validation split now: exact losses, and with `generate` those of generated text."""
        method = self._method(max(self.progress.step - 1, 0))  # with the weights of the last step
        return live_evaluation.evaluate(
            self.built, self.news, self.config.eval, method, self.progress, generate=generate
        )

    def _evaluation_due(self) -> bool:
        every, step = self.config.eval.every_steps, self.progress.step
        return bool(every and 0 < step < self.plan.total_steps and step % every == 0)

    def _step(self, ready: Ready[Prepared]) -> float:
        """Compute one optimizer step and report its record. Returns its seconds, waiting for data included."""
        began, config = time.perf_counter(), self.config
        method = self._method(ready.step)
        optimizer, scheduler = config.train.optimizer, config.train.scheduler
        record = train_step(
            self.engine,
            ready.prepared,
            method,
            lr=learning_rate(ready.step, self.plan.total_steps, optimizer.lr, scheduler),
            seed=config.run.seed,
            step=ready.step,
            seq2seq=self.built.seq2seq,
            loss=self.built.loss,
        )
        self.progress.add(ready.prepared)
        check_finite(record, fp16=self.plan.precision == "fp16")
        record["seconds"] = time.perf_counter() - began
        record["data_wait_seconds"] = ready.waited
        record |= method.settings
        self._tell_missing_tasks(ready.prepared.loss_tokens)
        if self.engine.rank == 0:
            epoch = round(self._batches.epoch(self.progress.step), 6)
            self.news.reporter.step(record | {"epoch": epoch, "samples": self.progress.samples})
        return float(record["seconds"] + ready.waited)

    def _tell_missing_tasks(self, totals: dict[str, int]) -> None:
        for task in sorted({task for task, tokens in totals.items() if not tokens} - self._without_rows):
            self._without_rows.add(task)
            self.news.message(
                f"step {self.progress.step} has no {task} rows; its loss uses the other tasks only"
            )

    def _read_ahead(self) -> ReadAhead[Prepared]:
        """Prepare the arrays of the steps that are left, while others are computed."""
        reader = BatchReader(
            self._store,
            self._batches,
            self.method,
            self.built.layout,
            rank=self.engine.rank,
            world_size=self.engine.world_size,
            architecture=self.plan.train.spec.architecture,
            pad_id=self.built.tokenizer.pad_token_id,
            packed=self.config.data.pack_tokens is not None,
            reference=self.plan.stored_reference(self.plan.train),
        )

        told = -1

        def waiting() -> None:
            nonlocal told
            if told != self.progress.step:
                told = self.progress.step
                self.news.event("waiting", text=self._store.waits_for or "the data of the next step")

        return ReadAhead(reader.prepare, range(self.progress.step, self.plan.total_steps), waiting=waiting)

    def _save(self, metrics: dict[str, float], *, wait: bool) -> float:
        """Begin a checkpoint and return the seconds that took here. wait: until it is complete."""
        began = time.perf_counter()
        with self.news.timed("checkpoint_blocked"):
            begun = self._writer.save(self.progress, metrics, wait=wait)
            if wait:
                self._writer.finish()
        if not begun:
            self.news.message(
                f"skipped the checkpoint of step {self.progress.step}: the one before is still being written"
            )
        return time.perf_counter() - began

    def _method(self, step: int) -> MethodLoss:
        """Return the method as it is in a 0-based step: a function of the step alone."""
        if not self.method.spec.moving_weights or step == 0:
            return self.method
        return self.method.at(self._batches.epoch(step))
