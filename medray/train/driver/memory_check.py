"""The plan's check of a run whose first rows are encoded: does its peak fit, and how many rows does a micro-batch take?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.plan.gpus import Gpus, gpu
from medray.plan.headers import ParameterCount
from medray.plan.jobs import Choice, Lengths, TaskLengths
from medray.plan.memory import gigabytes
from medray.plan.model_config import ModelDescription
from medray.plan.options import Given, largest_rows, plan, taken_rows
from medray.plan.phases import RunMemory, run_memory
from medray.plan.resources import Supply, plural
from medray.plan.steps import split_batch
from medray.storage import StoragePath
from medray.train import checkpoint
from medray.train.prepare import Resources, counted
from medray.train.run_folder.changes import recorded_rows
from medray.train.run_folder.files import DATA


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryCheck:
    """A check of one run by the plan, with the real row lengths of the first shard. given: the input of the plan."""

    given: Given

    @classmethod
    def of(
        cls,
        config: Config,
        model: ModelDescription,
        have: Supply,
        granted: Resources,
        precision: str,
        tokens: TokenSet,
    ) -> MemoryCheck | None:
        """Return the check; None if the memory that the run needs, or that the machines have, is not known.

        tokens: the training shards, of which the first one exists.
        """
        count = counted(model)
        if count is None:
            return None
        given = _given(config, model, count, have, granted, precision, lengths_of_shard(config, tokens))
        if given is None:
            return None
        try:
            run_memory(given.job(Choice.of(config, given.workers)))
        except ValueError:  # a family whose layers the plan does not know
            return None
        return cls(given=given)

    def check(self, *, force: bool) -> str | None:
        """Return a warning if the longest rows may not fit; None if they do.

        Raises InputError on CPUs if rows of mean length cannot fit, unless `force`.
        """
        given, usual = self.given, self.usual
        if not given.on_gpu and given.fits(usual) is False:
            text = self._shortage(usual, "rows of mean length")
            if force:
                return text
            train = given.config.train
            raise InputError(
                text, key="train.micro_batch_size", value=train.micro_batch_size, fix=self._fix()
            )
        longest = self._memory(given)
        if given.fits(longest) is False:
            return f"{self._shortage(longest, 'the longest rows')}. To change that: {self._fix()}"
        return None

    @property
    def usual(self) -> RunMemory:
        """Return the memory of the run with rows of mean length."""
        return self._memory(replace(self.given, lengths=_of_mean_length(self.given.lengths)))

    def peak_bytes(self, rows: int | None) -> int:
        """Return the peak of a worker with the longest rows: of its GPU, or without one of its process.

        rows: of a micro-batch, as `rows` returns them.
        """
        given = self.given
        memory = run_memory(given.job(Choice.of(given.config, given.workers, rows)))
        return memory.device if given.on_gpu else memory.on_node(1)

    def rows(self, folder: StoragePath) -> int | None:
        """Return the rows of a micro-batch; None if the plan does not decide them: on CPUs, or if the config sets them.

        A run keeps the value that it began with. folder: the run's folder.
        """
        given = self.given
        train = given.config.train
        set_by_user = train.micro_batch_size is not None or train.gradient_accumulation_steps is not None
        if not given.on_gpu or set_by_user:
            return None
        if checkpoint.newest(folder / "checkpoints") is not None:
            return recorded_rows(folder / DATA)
        choice = Choice.of(given.config, given.workers)
        most = taken_rows(given.config, given.workers, max(largest_rows(given, choice), 1))
        cluster = given.config.cluster
        if cluster.fewest_workers < cluster.most_workers and most == choice.micro_batch_size:
            return None  # each number of workers has its own best micro-batch, and all of them fit
        return next(size for size in range(most, 0, -1) if _splits_everywhere(given.config, size))

    def _memory(self, given: Given) -> RunMemory:
        return run_memory(given.job(Choice.of(given.config, given.workers)))

    def _shortage(self, memory: RunMemory, rows: str) -> str:
        given = self.given
        phase = memory.peak.name
        if given.on_gpu and given.gpus is not None:
            return (
                f"by computation, {rows} need {gigabytes(memory.device)} GB of a GPU ({phase}), but a "
                f"{given.gpus.gpu.name} has {gigabytes(given.gpus.gpu.memory)} GB"
            )
        each = given.workers_per_node
        return (
            f"by computation, {plural(each, 'worker')} on one node need {gigabytes(memory.on_node(each))} GB of memory for "
            f"{rows} ({phase}), but the node has {gigabytes(given.host_memory or 0)} GB"
        )

    def _fix(self) -> str:
        found = plan(self.given)
        ways = list(found.changes)
        if found.cheapest is not None:
            best = found.cheapest
            offload = "cpu" if best.choice.offload else "none"
            ways = [
                f"set train.zero_stage={best.choice.stage} train.offload={offload} train.micro_batch_size={best.rows}"
            ]
        ways = ways or ["use fewer workers per node, shorter rows or a smaller model"]
        return " or ".join(ways[:2]) + ("" if self.given.on_gpu else "; --force starts it all the same")


def lengths_of_shard(config: Config, tokens: TokenSet) -> Lengths:
    """Return the lengths of the first shard in the order of training, which exists."""
    store = tokens.store()
    first = int(tokens.plan(config).shard_order()[0])
    seq2seq = tokens.spec.architecture == "seq2seq"
    found: dict[str, TaskLengths] = {}
    for task in spec_of(config.method).tasks:
        length, target = (store.counts(first, task.name, name) for name in ("length", "loss_tokens"))
        there = length > 0
        if not there.any():
            continue
        inputs = length[there] - (target[there] if seq2seq else 0)
        found[task.name] = TaskLengths(
            length=float(inputs.mean()),
            longest=int(inputs.max()),
            target=float(target[there].mean()),
            longest_target=int(target[there].max()),
            share=float(there.mean()),
        )
    return Lengths(tasks=found, rows=tokens.index.rows, origin="the first shard")


def _given(
    config: Config,
    model: ModelDescription,
    count: ParameterCount,
    have: Supply,
    granted: Resources,
    precision: str,
    lengths: Lengths,
) -> Given | None:
    """Return the plan's input; None if the kind of GPU, or the memory of the nodes, is not known."""
    largest = max(have.nodes, key=lambda node: node.memory_bytes, default=None)
    if largest is None or not lengths.tasks:
        return None
    given = Given(
        config=config,
        model=model.config,
        count=count,
        lengths=lengths,
        precision=precision,
        on_gpu=bool(granted.gpus),
        workers=granted.workers,
    )
    if granted.gpus:
        nodes = [node for node in have.nodes if node.gpus >= 1]
        kinds = [gpu(node.gpu_name) for node in nodes]
        known = [one for one in kinds if one is not None]
        if not known or len(known) < len(kinds):
            return None
        per_node = min(int(min(node.gpus for node in nodes)), granted.workers)
        kind = min(known, key=lambda one: one.memory)
        gpus = Gpus(gpu=kind, nodes=-(-granted.workers // per_node), per_node=per_node)
        return replace(given, gpus=gpus, workers_per_node=per_node)
    if largest.memory_bytes <= 0:
        return None
    each = min(granted.workers, max(1, int(largest.cpus / granted.cpus)))
    return replace(given, host_memory=largest.memory_bytes, workers_per_node=each)


def _splits_everywhere(config: Config, rows: int) -> bool:
    """Return whether micro-batches of `rows` rows hold the global batch for every number of workers that a run may have."""
    train, cluster = config.train, config.cluster
    if train.global_batch_tokens is not None:
        return True
    try:
        for workers in range(cluster.fewest_workers, cluster.most_workers + 1):
            split_batch(train.global_batch_size, workers, rows)
    except InputError:
        return False
    return True


def _of_mean_length(lengths: Lengths) -> Lengths:
    tasks: Mapping[str, TaskLengths] = {
        name: replace(task, longest=round(task.length), longest_target=max(round(task.target), 1))
        for name, task in lengths.tasks.items()
    }
    return replace(lengths, tasks=tasks)
