"""The driver of one run: it prepares, runs the workers, evaluates the export and writes the files of the run.

It neither starts Ray nor touches signals: `cli` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medray import storage
from medray.config import Config
from medray.config.checks.method import notes
from medray.config.checks.train import learning_rate_notes
from medray.config.method_specs import spec_of
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError, RunFailedError, StoppedError
from medray.models.weights_identity import weights_identity
from medray.plan.model_config import ModelDescription
from medray.plan.resources import Supply
from medray.tracking import ParentRun
from medray.tracking import ledger as ledgers
from medray.train.checks import check, check_weights_and_names, describe_model, refuse_search
from medray.train.driver import data_phase
from medray.train.driver.fit import fit
from medray.train.driver.memory_check import MemoryCheck
from medray.train.driver.nodes import ask_versions, awaited, check_versions
from medray.train.driver.observer import Console, RunObserver
from medray.train.driver.row_lengths import check_positions
from medray.train.driver.run_ledger import RunLedger
from medray.train.driver.tracking import artifacts, send_unsent, tracking_spec
from medray.train.engine.optimizers import warmup_steps
from medray.train.export.card import write_card
from medray.train.export.evaluation import TextSample, evaluate_export
from medray.train.loop.interruption import STOPPED
from medray.train.prepare import (
    Resources,
    check_memory,
    check_optimizer,
    precision,
    resources,
)
from medray.train.run_folder import lock
from medray.train.run_folder.begin_from import NOTE, TOKENIZER, beginning, check_tokenizer, named_tokenizer
from medray.train.run_folder.changes import recorded_gpus
from medray.train.run_folder.claim import claim
from medray.train.run_folder.earlier_run import finished_result
from medray.train.run_folder.files import DATA, RunResult, folder_of
from medray.train.run_folder.results import early_summary, write_failure, write_results
from medray.train.side_thread import SideThread
from medray.train.stop import StopSwitch, watching
from medray.train.worker_plan import WorkerPlan


@dataclass
class Timings:
    """Seconds of a run's phases, summed over the attempts of this driver."""

    began: float = field(default_factory=time.perf_counter)
    parts: dict[str, float] = field(default_factory=dict)

    def first_step(self) -> None:
        """Record the time until the first step of this driver, once."""
        self.parts.setdefault("first_step", time.perf_counter() - self.began)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - began


def run(
    config: Config,
    *,
    callbacks: Sequence[Any] = (),
    console: Console | None = None,
    stop: StopSwitch | None = None,
    config_file: str | Path | None = None,
    checked: ModelDescription | None = None,
    parent: ParentRun | None = None,
    force: bool = False,
) -> RunResult:
    """Run `config` on the connected Ray cluster to its end, or until a stop is asked for.

    A finished run is returned as it is. This function neither starts Ray nor touches signals.
    callbacks: Ray Train's UserCallbacks, for a search. console: shows what the run does. stop: set it, from any thread, to
    save and end. config_file: the YAML file, for a tag in MLflow. checked: the result of `describe_model`, from a caller
    that has made all checks of `check` and knows that the run is not finished; without it, both are done here. parent: the
    run that this one is a part of, in MLflow. force: start a run that by computation does not fit into the nodes' memory.
    Raises InputError before any worker starts, RunFailedError if the run failed, and StoppedError if it was told to stop
    while no worker had anything to save.
    """
    os.umask(0o077)  # what a run leaves holds patients' text
    observer, timings = RunObserver(console, stop or StopSwitch()), Timings()
    folder = folder_of(config)
    refuse_search(config)
    if checked is None:
        if done := finished_result(config):
            send_unsent(config, done, observer.phase, config_file, parent)
            return done
        check(config, elsewhere=True, model=False)
        checked = describe_model(config)
        check_weights_and_names(config, checked)
    with lock.held(folder, lambda text: observer.phase("lock", text)):
        try:
            with (
                watching(folder, observer.stop),
                awaited(config, recorded_gpus(folder / DATA), observer) as have,
            ):
                return _run(config, checked, have, observer, timings, callbacks, config_file, parent, force)
        except OSError as error:
            raise RunFailedError(
                f"{folder} could not be used ({storage.summary(error)}). Run the same command again to resume from the "
                "newest checkpoint"
            ) from error


def _run(
    config: Config,
    model: ModelDescription,
    have: Supply,
    observer: RunObserver,
    timings: Timings,
    callbacks: Sequence[Any],
    config_file: str | Path | None,
    parent: ParentRun | None,
    force: bool,
) -> RunResult:
    folder = folder_of(config)
    ready = _prepare(config, model, have, observer, timings, force)
    plan, granted, encoding = ready.plan, ready.granted, ready.encoding
    observer.steps = plan.total_steps
    ledger = RunLedger(
        ledgers.start(str(folder), tracking_spec(config, config_file, parent)), observer, timings.first_step
    )
    observer.phase("model", ready.memory)
    try:
        with timings.of("fit"):
            worker_result = fit(plan, granted, ledger, encoding, observer, callbacks)
        after: dict[str, float] = {}
        samples: list[TextSample] = []
        if worker_result.status != STOPPED:  # now, because the evaluation below takes a while and may fail
            write_card(plan, early_summary(plan, worker_result), encoding.manifests(observer))
        if worker_result.status != STOPPED and plan.validation is not None:
            observer.phase("evaluation", "the export")
            with timings.of("evaluate"):
                after, samples = evaluate_export(plan, granted, observer.beat)
            ledger.log_last_evaluation(worker_result, after)
    except (InputError, StoppedError) as error:
        ledger.close({"status": STOPPED if isinstance(error, StoppedError) else "failed"}, [])
        raise
    except Exception as error:
        failure = {"status": "failed"}
        with suppress(OSError):  # storage may be the cause
            failure = write_failure(config, str(error))
        ledger.close(failure, [])
        raise
    result = write_results(
        plan,
        worker_result,
        after,
        samples,
        timings.parts,
        time.perf_counter() - timings.began,
        encoding.manifests(observer),
        planned_bytes=ready.planned_bytes,
    )
    ledger.close(result.summary, artifacts(folder))
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """Everything that is decided before the workers start.

    memory: one line about model states, for the console. planned_bytes: peak memory of a worker by computation; None if
    it is not known.
    """

    plan: WorkerPlan
    granted: Resources
    encoding: data_phase.Encoding
    memory: str
    planned_bytes: int | None


def _prepare(
    config: Config,
    model: ModelDescription,
    have: Supply,
    observer: RunObserver,
    timings: Timings,
    force: bool,
) -> _Ready:
    """Decide what each worker gets, index the data, count the steps and claim the run folder."""
    granted = resources(config, have)
    versions = ask_versions()  # answered while the data are read
    bounds = {config.cluster.fewest_workers, config.cluster.most_workers}
    observer.phase(
        "cluster",
        f"{' to '.join(str(bound) for bound in sorted(bounds))} workers of {granted.cpus:g} CPU"
        + (" and 1 GPU" if granted.gpus else "")
        + f" and {granted.threads} threads, {have.cpus:g} CPUs in the cluster",
    )
    chosen = precision(config, granted.device)
    check_optimizer(config, granted.device)
    for note in notes(config):
        observer.phase("note", note)
    for note in learning_rate_notes(config):
        observer.phase("WARNING", note)
    memory = check_memory(config, model, have, granted, chosen, force=force)
    with timings.of("data"):
        encoding = data_phase.begin(config, model, observer)
        data_phase.check_first_shard(config, encoding, observer)
        check_positions(config, model.config, encoding, observer)
        steps = data_phase.steps(config, encoding, observer)
    peak = MemoryCheck.of(config, model, have, granted, chosen, encoding.sets["train"])
    if peak is not None and (warning := peak.check(force=force)):
        observer.phase("WARNING", warning)
    rows = None if peak is None else peak.rows(folder_of(config))
    if (warmup := warmup_steps(steps, config.train.scheduler)) >= steps:
        observer.phase("note", f"the learning rate rises over {warmup} steps, and the run has {steps}")
    check_versions(versions)
    start = beginning(config)
    tokenizer = encoding.sets["train"].tokenizer
    facts = {TOKENIZER: named_tokenizer(tokenizer)}
    if start is not None:
        check_tokenizer(config, tokenizer)
        facts[NOTE] = start.named
    reference = _reference(config, model, chosen, encoding.sets["train"].tokenizer, observer)
    threads = claim(
        config,
        encoding.sets["train"].folder,
        chosen,
        granted.threads,
        lambda note: observer.phase("resume", note),
        steps=steps,
        gpus=granted.gpus,
        rows=rows,
        reference=reference,
        more=facts,
    )
    plan = WorkerPlan(
        config if rows is None else config.override({"train.micro_batch_size": rows}),
        str(folder_of(config)),
        encoding.sets["train"],
        encoding.sets.get("validation"),
        model.config,
        steps,
        chosen,
        threads,
        reference,
        start,
    )
    return _Ready(
        plan=plan,
        granted=replace(granted, threads=threads),
        encoding=encoding,
        memory=memory,
        planned_bytes=None if peak is None else peak.peak_bytes(rows),
    )


def _reference(
    config: Config, model: ModelDescription, precision: str, tokenizer: str, observer: RunObserver
) -> str | None:
    """Return a name of the weights that training begins with, for a method that stores numbers of a frozen model.

    tokenizer: folder or hub id. Hashing large weights takes minutes, and hears a stop.
    """
    reference = spec_of(config.method).reference
    if reference is None or reference.live:
        return None
    cache = storage.at(config.run.storage) / "tokens" / "hashes"
    naming = SideThread(
        lambda: weights_identity(
            config.model,
            model.config,
            tokens=len(load_tokenizer(tokenizer)),
            seed=config.run.seed,
            precision=precision,
            cache=cache,
        )
    )
    observer.phase("reference", "naming the weights that training begins with")
    while naming.running(data_phase.POLL_SECONDS):
        observer.beat()
    return str(naming.result())
