"""The worker loop: what every rank does from weights to export. Runs under Ray Train, under torchrun, or alone.

It talks to the outside through a Reporter only; `train/worker.py` has the one for Ray.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import distributed

from medray import storage
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.evaluate.validation import Validation
from medray.methods.loss import Method
from medray.models.adapters import add_adapter
from medray.models.export import export
from medray.models.export.usage import write_usage
from medray.models.forward import unwrap
from medray.models.generation import keep_protocol
from medray.models.load import load_model
from medray.models.probes import keeps_boundaries, refuse_sight_ahead
from medray.models.quantized import elements
from medray.plan.model_config import architecture
from medray.train import checkpoint, live_evaluation
from medray.train.checkpoint.state_files import Retries
from medray.train.checkpoint.writer import CheckpointWriter, WriterOptions
from medray.train.device import DeviceMemory, device_memory, this_device, used_bytes
from medray.train.engine import (
    DeepSpeedEngine,
    Engine,
    TorchEngine,
    deepspeed_config,
    gathered,
    prepare_process,
)
from medray.train.engine.optimizers import learning_rate
from medray.train.export.card import usage_of_plan
from medray.train.interruption import NOTICED, Interruption, Signals, killed_when_hung
from medray.train.read_ahead import ReadAhead, Ready
from medray.train.run_folder.files import ATTEMPTS
from medray.train.step import BatchReader, Prepared, Progress, batch_layout, check_finite, train_step
from medray.train.token_loss import token_loss
from medray.train.worker_plan import WorkerPlan

TRAINED = "done"


class Reporter(Signals, Protocol):
    """Where a rank's news go. Only rank 0's step, evaluation and event calls matter; `sync` is called by all."""

    def opened(self, resumed_step: int) -> None: ...
    def step(self, record: dict[str, Any]) -> None: ...
    def evaluation(self, record: dict[str, Any]) -> None: ...
    def event(self, record: dict[str, Any]) -> None: ...
    def flush(self) -> None:
        """Returns when what was reported so far is on disk: a checkpoint must not know a step that its log lacks.

        Raises OSError where that cannot be said now.
        """

    def sync(self, metrics: dict[str, Any]) -> None:
        """At evaluations, on all ranks."""


@dataclass
class WorkerResult:
    """What rank 0 returns. exported: the step whose weights are. seconds: of the parts of this attempt."""

    status: str
    progress: Progress
    exported: int | None
    evaluated: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    world_size: int = 1
    memory: DeviceMemory | None = None
    trainable: int = 0
    parameters: int = 0


def run(plan: WorkerPlan, reporter: Reporter) -> WorkerResult:
    """Trains to the end, or to a stop that was asked for; all ranks return the same status and progress."""
    os.umask(0o077)  # what a run leaves holds patients' text
    return _Loop(plan, reporter).run()


class _Loop:
    def __init__(self, plan: WorkerPlan, reporter: Reporter) -> None:
        self.plan, self.config, self.reporter = plan, plan.config, reporter
        self.method, self.folder = plan.method, storage.at(plan.run_folder)
        self.seconds: dict[str, float] = {}
        self.seq2seq = architecture(plan.model) == "seq2seq"
        with self._timed("setup"):
            self.plain_torch = plan.plain_torch(_world_size())
            if self.plain_torch:
                torch.set_num_threads(plan.threads)
            else:
                prepare_process(plan.threads)
            self.tokenizer = plan.train.load_tokenizer()
            self.engine = self._engine()
            self._refuse_leaks()
            self.loss = token_loss(self.config, self.engine, seq2seq=self.seq2seq, say=self._message)
        self.validation = self._validation(plan.validation)
        self.progress = Progress()
        self.memory_before = used_bytes()
        self.lacking: set[str] = set()  # tasks of which a step had nothing

    def run(self) -> WorkerResult:
        self._resume()
        if self.progress.step == 0:
            live_evaluation.say_unused(self.validation, self.engine, self.config.eval, self._message)
            if self.config.eval.at_start:
                self._evaluate(generate=True)
        status = self._train()
        evaluated: dict[str, float] = {}
        exported: int | None = None
        if status == TRAINED:
            exported, evaluated = self._take_best()
            self._event("phase", name="export")
            with self._timed("export"):
                self._export()
        if self.engine.rank == 0:
            # A checkpoint has the steps; the ledger says itself what it could not write.
            with suppress(OSError):
                self.reporter.flush()
        sizes = [(elements(parameter), parameter.requires_grad) for parameter in self._inner().parameters()]
        return WorkerResult(
            status,
            self.progress,
            exported,
            evaluated,
            self.seconds,
            self.engine.world_size,
            device_memory(self.memory_before),
            sum(size for size, trained in sizes if trained),
            sum(size for size, _ in sizes),
        )

    def _engine(self) -> Engine:
        plan, train, ranks = self.plan, self.config.train, _world_size()
        self.layout = batch_layout(train, ranks)
        ds_config = deepspeed_config(
            train, micro_batch_size=self.layout.micro_batch_size, world_size=ranks, precision=plan.precision
        )
        device = this_device()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.precision, torch.float32)
        self._event("phase", name="model")
        model = self._model(dtype, ds_config if train.zero_stage == 3 else None)
        return (
            TorchEngine(model, train, device)
            if self.plain_torch
            else DeepSpeedEngine(model, train, ds_config, device)
        )

    def _model(self, dtype: torch.dtype, zero3: dict[str, Any] | None) -> Any:
        config, plan, seed = self.config, self.plan, self.config.run.seed
        base = partial(load_model, config.model, plan.model, self.tokenizer, dtype=dtype, seed=seed)
        self.unsaved_base = base if config.model.init == "random" and config.peft.type != "none" else None
        model: Any = base(zero3=zero3)
        if config.train.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        keep_protocol(model, self.tokenizer, plan.train.spec)
        return add_adapter(
            model,
            config.peft,
            seq2seq=self.seq2seq,
            seed=seed,
            total_steps=plan.total_steps,
            tokenizer=self.tokenizer,
            start=config.model.adapter,
        )

    def _validation(self, tokens: TokenSet | None) -> Validation | None:
        if tokens is None:
            return None
        return Validation(
            tokens.store(patience_seconds=self.config.cluster.hang_seconds),
            tuple(tokens.rows()),
            tokens.spec.architecture,
            self.tokenizer.pad_token_id,
            self.config.eval.batch_size,
        )

    def _resume(self) -> None:
        train = self.config.train
        root = self.folder / "checkpoints"
        self.progress = checkpoint.resume(root, self.engine, self._message, self._patience())
        self.writer = CheckpointWriter(
            root,
            self.engine,
            WriterOptions(train.keep_checkpoints, train.keep_best, 60 * train.save_patience_minutes),
            before_manifest=self.reporter.flush,
            written=lambda step: self._event("checkpoint", step=step),
            troubled=self._trouble,
        )
        if self.engine.rank == 0:
            step, workers = self.progress.step, self.engine.world_size
            attempt = {"time": time.time(), "resumed_step": step, "workers": workers}
            with suppress(OSError):  # a full disk: only the number of restarts in the report lacks one
                storage.append(self.folder / ATTEMPTS, json.dumps(attempt) + "\n")
            self.reporter.opened(self.progress.step)

    def _patience(self) -> Retries:
        seconds = 60 * self.config.train.save_patience_minutes
        return Retries(seconds, "a checkpoint cannot be read", self._trouble)

    def _train(self) -> str:
        plan, config, resumed = self.plan, self.config, self.progress.step
        every = config.train.save_every_steps or max(plan.total_steps // 10, 1)
        ending = Interruption(self.reporter, self.engine, self._message)
        self._event("phase", name="training")
        with self._timed("train"), self._ahead(self.progress.step) as ahead:
            if self._evaluation_due() and self.progress.evaluated != self.progress.step:
                self._save(self._evaluate(generate=True), wait=False)  # a stop came before it
            for ready in ahead:
                with killed_when_hung(config.cluster.hang_seconds):
                    seconds = self._step(ready)
                    end, step = ending.asked(step_seconds=seconds), self.progress.step
                if step == plan.total_steps:
                    break
                if end == NOTICED:
                    ending.saved(self._save({}, wait=True))
                    end = None
                metrics: dict[str, float] = {}
                if self._evaluation_due() and not end:
                    # Before the checkpoint: it is not missed on resume.
                    metrics = self._evaluate(generate=True)
                if end or step % every == 0 or metrics:
                    self._save(metrics, wait=bool(end))
                if end:
                    return end
        if self.progress.step > resumed:
            self._save(self._evaluate(generate=True) if config.train.keep_best else {}, wait=True)
        return TRAINED

    def _take_best(self) -> tuple[int, dict[str, float]]:
        """The step whose weights the export gets, and their metrics: the best by train.keep_best, else the last."""
        metric = self.config.train.keep_best
        best = metric and checkpoint.load_best(
            self.folder / "checkpoints", metric, self.engine, self._message, self._patience()
        )
        if not best:
            return self.progress.step, self._evaluate(generate=False)
        self._message(f"the export has the weights of step {best.progress.step}, the best by {metric}")
        return best.progress.step, dict(best.metrics)

    def _evaluation_due(self) -> bool:
        every, step = self.config.eval.every_steps, self.progress.step
        return bool(every and 0 < step < self.plan.total_steps and step % every == 0)

    def _step(self, ready: Ready[Prepared]) -> float:
        """One optimizer step and its record. seconds are those of computing; data_wait_seconds stand beside them."""
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
            seq2seq=self.seq2seq,
            loss=self.loss,
        )
        self.progress.add(ready.prepared)
        check_finite(record, fp16=self.plan.precision == "fp16")
        record["seconds"] = time.perf_counter() - began
        record["data_wait_seconds"] = ready.waited
        record |= live_evaluation.alpha_of(method)
        self._say_lacking(ready.prepared.totals)
        if self.engine.rank == 0:
            epoch = round(self.batch_plan.epoch(self.progress.step), 6)
            self.reporter.step(record | {"epoch": epoch, "samples": self.progress.samples})
        return float(record["seconds"] + ready.waited)

    def _say_lacking(self, totals: dict[str, int]) -> None:
        for task in sorted({task for task, tokens in totals.items() if not tokens} - self.lacking):
            self.lacking.add(task)
            self._message(
                f"no row of step {self.progress.step} has {task}: such a step goes by the other tasks"
            )

    def _ahead(self, start: int) -> ReadAhead[Prepared]:
        """The arrays of the steps from `start` on, made while others are computed."""
        tokens, window = self.plan.train, self.config.data.window_shards
        # This window and the next; a merged window may hold as many shards of each corpus.
        store = tokens.store(2 * window * max(len(tokens.weights), 1) + 1, self.config.cluster.hang_seconds)
        self.batch_plan = tokens.plan(self.config, store)
        reader = BatchReader(
            store,
            self.batch_plan,
            self.method,
            self.layout,
            rank=self.engine.rank,
            world_size=self.engine.world_size,
            architecture=tokens.spec.architecture,
            pad_id=self.tokenizer.pad_token_id,
            packed=self.config.data.pack_tokens is not None,
        )

        told = -1

        def waiting() -> None:
            nonlocal told
            if told != self.progress.step:
                told = self.progress.step
                self._event("waiting", text=store.waits_for or "the data of the next step")

        return ReadAhead(reader.prepare, range(start, self.plan.total_steps), waiting=waiting)

    def _refuse_leaks(self) -> None:
        """Asks the model itself, on all ranks: what sees the tokens to be predicted would train on them."""
        if not self.seq2seq:
            refuse_sight_ahead(self.engine.model, self.engine.device)
        tokens = self.config.data.pack_tokens
        if tokens is not None and not keeps_boundaries(self.engine.model, self.engine.device):
            raise InputError(
                "this model lets packed rows see each other",
                key="data.pack_tokens",
                value=tokens,
                fix="data.pack_tokens: null",
            )

    def _save(self, metrics: dict[str, float], *, wait: bool) -> float:
        """wait: this checkpoint is needed, and the run goes no further without it. Returns the seconds it took here."""
        began = time.perf_counter()
        with self._timed("checkpoint_blocked"):
            begun = self.writer.save(self.progress, metrics, wait=wait)
            if wait:
                self.writer.finish()
        if not begun:
            self._message(
                f"the checkpoint of step {self.progress.step} was left out: the one before is not written yet"
            )
        return time.perf_counter() - began

    def _message(self, text: str) -> None:
        self._event("message", text=text)

    def _trouble(self, text: str) -> None:
        """Of this rank's own, which rank 0 does not know of."""
        self._event("message", text=f"worker {self.engine.rank}: {text}", of_any_rank=True)

    def _evaluate(self, *, generate: bool) -> dict[str, float]:
        """Metrics of the validation split as it stands now: exact losses, and text metrics where asked for."""
        if self.validation is None:
            return {}
        self._event("phase", name="evaluation")
        with self._timed("evaluate"):
            method = self._method(max(self.progress.step - 1, 0))  # weighed as in the last step
            metrics = live_evaluation.losses(self.validation, self.engine, method, self.loss)
            if generate:
                metrics |= live_evaluation.text_metrics(
                    self.validation, self.engine, self.tokenizer, self.config.eval
                )
        self.progress.evaluated = self.progress.step
        if self.engine.rank == 0:
            self.reporter.evaluation({"step": self.progress.step, "metrics": metrics})
        self.reporter.sync({"step": self.progress.step, **metrics})
        return metrics

    def _method(self, step: int) -> Method:
        """The method as it is in a 0-based step: a function of the step alone."""
        if self.method.schedule is None or step == 0:
            return self.method
        return self.method.at(self.batch_plan.epoch(step))

    def _export(self) -> None:
        export(
            self._inner(),
            self.tokenizer,
            self.folder / "export",
            write=self.engine.rank == 0,
            gathered=lambda parameter: gathered(self.engine, [parameter]),
            base=self.unsaved_base,
        )
        if self.engine.rank == 0:
            write_usage(
                self.folder / "export", usage_of_plan(self.plan, self.tokenizer, unwrap(self._inner()))
            )
        self._barrier()

    def _inner(self) -> Any:
        return getattr(self.engine.model, "module", self.engine.model)

    def _barrier(self) -> None:
        if self.engine.world_size > 1:
            distributed.barrier()

    def _event(self, kind: str, **fields: Any) -> None:
        self.reporter.event({"kind": kind, **fields})

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began


def _world_size() -> int:
    """Of the group that Ray Train or torchrun has made; 1 where there is none."""
    if distributed.is_initialized():
        return int(distributed.get_world_size())
    return int(os.environ.get("WORLD_SIZE", "1"))
