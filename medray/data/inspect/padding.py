"""Measurement of padding: the share of positions in a forward pass without a token, computed from lengths alone.

The batches are those of the configured plan, arranged as in training: sorted by length within a global batch, then
split into micro-batches in which each task is padded to its longest row. For comparison, rows in random order are
measured too and, for causal models, packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data.batching.batch_plan import BatchPlan
from medray.data.batching.order import by_length
from medray.data.batching.plan_spec import Batch
from medray.data.shards.split_summary import SplitCounts
from medray.data.shards.token_split import TokenSet
from medray.plan.steps import MOST_ROWS, split_batch

MOST_STEPS = 200  # of a longer epoch, only the first steps are measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Padding:
    """The measured padding of one way to make batches. name: random, plan or packed.

    share: share of the computed positions without a token, 0 to 1. steps: number of measured steps. whole_epoch:
    whether these are all steps of an epoch. rows: rows of a micro-batch. pack_tokens: length of packed sequences.
    """

    name: str
    share: float
    tokens: int
    computed: int
    steps: int
    whole_epoch: bool
    rows: int
    pack_tokens: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grid:
    """The arrangement of the sequences of a step.

    rows: rows of a micro-batch. slots: number of slots of a step; turn: the slots are a multiple of this; with neither, there
    are as many as sequences. by_length: whether the longest come first. width: smallest length of every sequence. groups:
    indices of the tasks that share a forward pass, among those that are arranged row by row. mixed_turn: the texts of mixed
    tasks are arranged separately, in a multiple of this.
    """

    rows: int
    slots: int | None = None
    turn: int | None = None
    by_length: bool = True
    packed: bool = False
    width: int | None = None
    groups: tuple[tuple[int, ...], ...] = ()
    mixed_turn: int | None = None


def padding(config: Config, tokens: TokenSet, counts: SplitCounts) -> tuple[Padding, ...]:
    """Measure the padding of random batches, of the configured plan, and of packing if the plan could pack but does
    not.
    """
    store = tokens.store()
    plan, grid = tokens.plan(config, store), _grid(config)
    causal = tokens.spec.architecture == "causal"
    spec = spec_of(config.method)
    trained = [counts.tasks.index(task) for task in spec.task_names]
    lengths, targets = counts.length[trained].astype(np.int64), counts.loss[trained].astype(np.int64)
    # Tasks that the reader arranges text by text, separately from the tasks that it arranges row by row.
    apart = np.array([task in spec.mixed_tasks for task in spec.task_names])
    apart &= config.data.pack_tokens is None
    parts = lengths if causal else np.concatenate([lengths - targets, targets])
    by_row = parts[~apart if causal else np.concatenate([~apart, ~apart])]
    totals = lengths.sum(axis=0)
    in_order = replace(
        plan.spec,
        pack_tokens=None,
        length_buckets=False,
        global_batch_tokens=None,
        global_batch_size=config.train.global_batch_size,
    )

    def sizes(shard: int) -> np.ndarray:
        return store.sizes(shard, spec.task_names)

    def measured(name: str, one: BatchPlan, grid: _Grid) -> Padding:
        used = computed = steps = 0
        whole = True
        for batch in _first_epoch(one):
            if steps == MOST_STEPS:
                whole = False
                break
            places = counts.places(batch.shards, batch.rows)
            used, steps = used + int(totals[places].sum()), steps + 1
            source = None if causal else (lengths[0] - targets[0])[places]
            if grid.packed or not apart.any():
                computed += _computed(parts[:, places], lengths[0][places], source, batch.ends, grid)
                continue
            computed += _computed(by_row[:, places], lengths[0][places], source, batch.ends, grid)
            computed += _computed_mixed(lengths[apart][:, places], targets[apart][:, places], causal, grid)
        share = 1 - used / computed if computed else 0.0
        return Padding(
            name=name,
            share=share,
            tokens=used,
            computed=computed,
            steps=steps,
            whole_epoch=whole,
            rows=grid.rows,
            pack_tokens=one.spec.pack_tokens,
        )

    found = [
        measured(
            "random",
            BatchPlan(in_order, sizes),
            _Grid(rows=grid.rows, by_length=False, groups=grid.groups),
        ),
        measured("plan", plan, grid),
    ]
    if causal and config.data.pack_tokens is None and totals.any():
        width = suggested_pack_tokens(totals)
        packed = BatchPlan(replace(in_order, pack_tokens=width), sizes)
        found.append(measured("packed", packed, _Grid(rows=1, packed=True, width=width)))
    return tuple(found)


def suggested_pack_tokens(sizes: np.ndarray) -> int:
    """Suggest a value for data.pack_tokens: a power of two that holds the longest row and several typical rows."""
    wanted = max(int(sizes.max(initial=8)), 4 * float(sizes.mean()) if len(sizes) else 0)
    return int(2 ** int(np.ceil(np.log2(wanted))))


def _first_epoch(plan: BatchPlan) -> Iterator[Batch]:
    """Yield the batches of the first epoch one by one, because their number may be known only at the last."""
    step = 0
    while (batch := plan.batch(step)).epoch == 0:
        yield batch
        step += 1


def _grid(config: Config) -> _Grid:
    """Return the micro-batches of the configured run."""
    train, workers, packed = config.train, config.cluster.most_workers, config.data.pack_tokens is not None
    spec = spec_of(config.method)
    by_row = [task for task in spec.task_names if packed or task not in spec.mixed_tasks]
    groups = tuple(tuple(by_row.index(task) for task in one) for one in spec.row_groups if len(one) > 1)
    if train.global_batch_tokens is not None:
        rows = train.micro_batch_size or MOST_ROWS
        return _Grid(rows=rows, turn=rows * workers, packed=packed, groups=groups, mixed_turn=rows * workers)
    split = split_batch(
        train.global_batch_size, workers, train.micro_batch_size, train.gradient_accumulation_steps
    )
    rows = split.micro_batch_size
    return _Grid(rows=rows, slots=split.slots, packed=packed, groups=groups, mixed_turn=rows * workers)


def _computed(
    parts: np.ndarray, first_task: np.ndarray, source: np.ndarray | None, ends: np.ndarray, grid: _Grid
) -> int:
    """Return the computed positions of one step.

    parts: [arrays of a forward pass, rows]: the sequence of each task, or the source of each task and then its target.
    """
    tasks = len(parts) if source is None else len(parts) // 2
    if grid.packed:
        parts = np.add.reduceat(parts.sum(axis=0), np.concatenate([[0], ends[:-1]]))[None]
    if grid.width is not None:
        return int(np.maximum(parts, grid.width).sum())
    if grid.by_length:
        parts = parts[:, by_length(parts[0] if grid.packed else first_task, source)]
    held = parts.shape[1]
    slots = -(-held // grid.turn) * grid.turn if grid.turn else grid.slots or held
    filled = np.zeros((len(parts), -(-slots // grid.rows) * grid.rows), np.int64)
    filled[:, :held] = parts
    widest = filled.reshape(len(parts), -1, grid.rows).max(axis=2)
    heights = np.full(widest.shape[1], grid.rows)
    heights[-1] = slots - grid.rows * (len(heights) - 1)
    for group in grid.groups if not grid.packed else ():
        # As wide as the longest task of the group; of an encoder-decoder sources and targets each.
        arrays = len(parts) // tasks
        for number in range(arrays):
            members = [number * tasks + place for place in group]
            widest[members] = widest[members].max(axis=0)
    # A row without a task, and a slot without a row, are one position of padding.
    return int((np.maximum(widest, 1) * heights).sum())


def _computed_mixed(lengths: np.ndarray, targets: np.ndarray, causal: bool, grid: _Grid) -> int:
    """Return the computed positions of one step's mixed tasks. lengths, targets: [tasks, rows]; 0 targets without the task."""
    rows, tasks = np.nonzero(targets.T)
    sizes, wanted = lengths[tasks, rows], targets[tasks, rows]
    parts = sizes[None] if causal else np.stack([sizes - wanted, wanted])
    turn = grid.mixed_turn or 1
    layout = replace(grid, slots=None, turn=turn, groups=())
    if not len(sizes):
        sizes = np.zeros(1, np.int64)
        parts = np.zeros((1 if causal else 2, 1), np.int64)
    source = None if causal else parts[0]
    return _computed(parts, sizes, source, np.arange(1, len(sizes) + 1), layout)
