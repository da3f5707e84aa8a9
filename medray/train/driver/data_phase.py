"""The data of a run: indexed before the workers start, encoded while they run, and counted if the number of steps
depends on it.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from medray import storage
from medray.config import Config
from medray.config.method_specs import MethodSpec, spec_of
from medray.data.index.split_checks import missing_ids, one_label
from medray.data.shards.pipeline import Pipeline
from medray.data.shards.preparation import manifests, prompts_said, ready, tokenizer_place
from medray.data.shards.seal import FAILED
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.data.tokenizer_file import keep_tokenizer
from medray.errors import InputError, MedrayError, RunFailedError
from medray.plan.model_config import ModelDescription
from medray.train.driver.observer import Observer
from medray.train.failure import last_line
from medray.train.side_thread import SideThread

POLL_SECONDS = 0.2
RESTARTS = 3
DEATH = (
    f"its process was killed more than {RESTARTS} times. Fix: give the node of the driver more memory, then run the same "
    "command again: finished shards are kept"
)


@dataclass
class Encoding:
    """The second pass of the pipeline, which may still run during training. Its actor ends when the pass ends.

    reference: None if an earlier run has written every shard.
    """

    sets: dict[str, TokenSet]
    pipeline: Any = None
    reference: Any = None

    def done(self, wait_seconds: float = 0.0) -> bool:
        """Wait at most `wait_seconds`. Return whether every shard is written or the pass has failed."""
        ended = self.reference is None or bool(ray.wait([self.reference], timeout=wait_seconds)[0])
        if ended and self.pipeline is not None:
            self._report_death()
            ray.kill(self.pipeline)
            self.pipeline = None
        return ended

    def _report_death(self) -> None:
        """Tell the workers, which wait for shards, that the pipeline was killed too often to report it itself."""
        try:
            ray.get(self.reference)
        except ray.exceptions.RayActorError:
            for tokens in self.sets.values():
                storage.write(storage.at(tokens.folder) / FAILED, json.dumps({"reason": DEATH}))
        except ray.exceptions.RayError:
            return  # the pipeline has reported it itself

    def manifests(self, observer: Observer) -> dict[str, Any]:
        """Return the manifest of each split. Waits until all shards are written."""
        if self.reference is None:
            return manifests(self.sets)
        found: dict[str, Any] = result_of(self.reference, observer.beat)
        return found

    def shards(self, split: str) -> tuple[int, int]:
        """Return (written, all): two numbers of shards of a split."""
        tokens = self.sets[split]
        store = tokens.store()
        return sum(store.has(shard.index) for shard in tokens.index.shards), len(tokens.index.shards)


def begin(config: Config, model: ModelDescription, observer: Observer) -> Encoding:
    """Index what is not indexed yet, and start the encoding. Raises InputError for data that cannot be used."""
    observer.phase("data", "reading")
    found = ready(config, model.architecture, model.folder)
    if found is not None:
        encoding = Encoding(found)
    else:
        # The actor runs on the driver's node, also because Ray Data's AutoscalingCoordinator, which elastic groups ask for
        # nodes, starts on the same node and stays there: it would be lost with a worker's node. A label selects the node,
        # because Ray ignores a soft affinity for an actor without CPUs.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        # Restarted if its process dies: what it has written is on disk.
        actor = ray.remote(Pipeline).options(
            num_cpus=0, max_restarts=RESTARTS, max_task_retries=RESTARTS, label_selector=here
        )
        pipeline: Any = actor.remote(config, model.architecture, model.folder)
        indexing = pipeline.index.remote()
        tokenizer = None
        if place := tokenizer_place(config, model.folder):
            tokenizer = load_tokenizer(place)  # while the actor indexes
        sets: dict[str, TokenSet] = result_of(indexing, observer.beat)
        if tokenizer is None:
            tokenizer = load_tokenizer(sets["train"].tokenizer)
        keep_tokenizer(tokenizer, storage.at(sets["train"].folder).parent)
        # A task unpickles the tokenizer in a quarter of the time that it takes to load it.
        encoding = Encoding(sets, pipeline, pipeline.encode.remote(pickle.dumps(tokenizer)))
    observer.phase("data", "; ".join(_described(split, tokens) for split, tokens in encoding.sets.items()))
    observer.phase("prompts", prompts_said(config))
    indexes = {split: tokens.index for split, tokens in encoding.sets.items()}
    for warning in (one_label(indexes["train"]), missing_ids(indexes)):
        if warning:
            observer.phase("warning", warning)
    return encoding


def prepare(
    config: Config,
    model: ModelDescription,
    observer: Observer,
    progress: Callable[[Encoding], None] = lambda encoding: None,
) -> Encoding:
    """Write every shard of every split, without training. progress: called while they are written."""
    encoding = begin(config, model, observer)
    while not encoding.done(POLL_SECONDS):
        progress(encoding)
        observer.beat()
    encoding.manifests(observer)  # raises if the pass has failed
    progress(encoding)
    return encoding


def check_first_shard(config: Config, encoding: Encoding, observer: Observer) -> None:
    """Wait for the first shard. Raises InputError for an empty loss mask, before any worker starts."""
    tokens = encoding.sets["train"]
    store, first = tokens.store(), int(tokens.plan(config).shard_order()[0])
    while not store.has(first):
        if encoding.done(POLL_SECONDS):
            encoding.manifests(observer)  # raises if the pass has failed
        observer.beat()
    spec = spec_of(config.method)
    found = {task: store.counts(first, task.name, "loss_tokens") for task in spec.tasks}
    keyed = {task.key: counts for task, counts in found.items() if task.key}
    if spec.keys is not None and not any(counts.any() for counts in keyed.values()):
        raise InputError(
            f"none of {len(next(iter(found.values())))} rows has a text for one of these keys in its rationale",
            key=spec.keys.key,
            value=list(keyed),
            fix=f"set {spec.keys.key} to the keys of your data.columns.rationale, or set {spec.keys.without}",
        )
    _refuse_no_pairs(spec, tokens, {task.name: counts for task, counts in found.items()})
    for task, loss_tokens in found.items():
        rows = loss_tokens[loss_tokens > 0]
        if (task.required and not len(rows)) or (len(rows) and rows.max() <= 1):
            raise InputError(
                f"none of {len(loss_tokens)} rows has a token of the task {task.name!r} "
                "that carries loss, apart from the end token",
                key=task.limit_key,
                value=tokens.spec.limit(task.name),
                fix="raise the limit, or check the column",
            )


def _refuse_no_pairs(spec: MethodSpec, tokens: TokenSet, counts: dict[str, np.ndarray]) -> None:
    """Raise InputError if no row has all tasks of a group whose rows need all of them, such as the answers of a pair."""
    for group in spec.row_groups:
        tasks = [spec.task(name) for name in group]
        if len(tasks) == 1 or not all(task.required for task in tasks):
            continue
        there = np.array([counts[name] > 0 for name in group])
        if not there.all(axis=0).any():
            each = " and ".join(f"{int(one.sum())} {name}" for name, one in zip(group, there, strict=True))
            raise InputError(
                f"none of {there.shape[1]} rows has all of {', '.join(group)} within the limit (it is met by {each})",
                key=tasks[0].limit_key,
                value=tokens.spec.limit(group[0]),
                fix=f"raise {tasks[0].limit_key}, or use shorter answers",
            )


def steps(config: Config, encoding: Encoding, observer: Observer) -> int:
    """Return the optimizer steps of the run. If they depend on lengths, wait for all shards and show progress."""
    plan = encoding.sets["train"].plan(config)
    if config.train.max_steps is not None:
        return config.train.max_steps
    if not plan.needs_sizes:
        return plan.steps(config.train.epochs)
    shown = -1
    while not encoding.done(POLL_SECONDS):
        written, every = encoding.shards("train")
        if written != shown:
            observer.phase("data", f"{written} of {every} shards; the number of steps depends on their rows")
            shown = written
        observer.beat()
    encoding.manifests(observer)
    planning = SideThread(lambda: plan.steps(config.train.epochs))
    while planning.running(POLL_SECONDS):
        observer.beat()
    return int(planning.result())


def result_of(reference: Any, beat: Callable[[], None]) -> Any:
    """Return an actor's answer. Errors that medray explains are raised as they are, without Ray's wrapper."""
    try:
        while not ray.wait([reference], timeout=POLL_SECONDS)[0]:
            beat()
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MedrayError):
            raise error.cause from None
        kind = type(error.cause or error).__name__  # its message may quote a record
        raise RunFailedError(
            f"the data pipeline failed ({kind}). Fix: look for its traceback in Ray's logs (ray logs, or the dashboard), then run "
            "the same command again: finished shards are kept"
        ) from error
    except ray.exceptions.RayActorError as error:
        raise RunFailedError(f"the data pipeline failed: {DEATH}") from error
    except ray.exceptions.RayError as error:
        raise RunFailedError(
            f"the data pipeline failed: {last_line(error)}. Fix: run the same command again: finished shards are kept"
        ) from error


def _described(split: str, tokens: TokenSet) -> str:
    index = tokens.index
    notes = [f"{index.rejected} rejected"] if index.rejected else []
    notes += [f"{count} {reason}" for reason, count in index.dropped.items()]
    notes += [f"{index.duplicates} repeat another"] if index.duplicates else []
    notes += [f"{index.repeated_ids} ids given twice"] if index.repeated_ids else []
    return f"{len(index.shards)} shards of {index.rows} {split} rows" + (
        f" ({', '.join(notes)})" if notes else ""
    )
