"""From the plan's step to one rank's arrays: who computes what, what is counted, and what is asked for ahead."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import memory_store
import numpy as np
import pytest
from losses import loss
from memory_store import ListedPlan, MemoryStore

from medray.data.batching.batch_plan import BatchPlan, Corpus, PlanSpec
from medray.data.batching.collate import MicroBatch, PackedMicroBatch
from medray.train.loop.batch_reader import BatchLayout, BatchReader
from medray.train.loop.step import Progress

IGNORED = -100
METHOD = loss({"label": 0.5, "rationale": 0.5})
ROWS = memory_store.rows(30)


def reader(
    plan: ListedPlan,
    layout: BatchLayout,
    *,
    rank: int = 0,
    world_size: int = 1,
    packed: bool = False,
    architecture: Literal["causal", "seq2seq"] = "causal",
    store: MemoryStore | None = None,
) -> BatchReader:
    rows: Any = store or plan.store
    listed: Any = plan
    return BatchReader(
        rows,
        listed,
        METHOD,
        layout,
        rank=rank,
        world_size=world_size,
        architecture=architecture,
        pad_id=0,
        packed=packed,
    )


def loss_tokens(micro: Any) -> int:
    return int((micro.labels[:, 1:] != IGNORED).sum())


def real(micro: Any) -> list[list[int]]:
    """The ids of each sequence, without padding."""
    taken = micro.attention_mask if isinstance(micro, MicroBatch) else micro.task_ids >= 0
    return [ids[mask.astype(bool)].tolist() for ids, mask in zip(micro.input_ids, taken, strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("slots", ["fixed", None])
def test_every_row_is_computed_once_on_one_rank(world_size: int, slots: str | None) -> None:
    numbers = [3, 17, 8, 21, 0, 5, 11]
    plan = ListedPlan(MemoryStore(ROWS), [[[number] for number in numbers]])
    layout = BatchLayout(2, 12 if slots else None)
    found: list[list[int]] = []
    forwards = set()
    for rank in range(world_size):
        micro = reader(plan, layout, rank=rank, world_size=world_size).prepare(0).micro
        forwards.add(len(micro))
        assert [[part.task for part in parts if isinstance(part, MicroBatch)] for parts in micro] == [
            ["label", "rationale"]
        ] * len(micro)
        found += [ids for label, _ in micro for ids in real(label) if ids != [0]]
    assert sorted(found) == sorted(ROWS[number]["label"][0].tolist() for number in numbers)
    assert forwards == {12 // (2 * world_size) if slots else -(-7 // (2 * world_size))}


def test_sequences_of_alike_length_are_computed_together_on_all_ranks() -> None:
    plan = ListedPlan(MemoryStore(ROWS), [[[number] for number in range(12)]])
    ranks = [reader(plan, BatchLayout(3, 12), rank=rank, world_size=2).prepare(0).micro for rank in range(2)]
    lengths = [
        [len(ids) for micro in turn for ids in real(micro[0])]  # the label task decides
        for turn in zip(*ranks, strict=True)
    ]
    assert [length for turn in lengths for length in turn] == sorted(
        (len(row["label"][0]) for row in ROWS[:12]), reverse=True
    )


def test_sequences_of_equal_length_stay_in_the_order_of_the_plan() -> None:
    """Numbers must not depend on how a machine sorts."""
    made = [
        {task: (np.full(3 + number % 2, number), np.full(3 + number % 2, number)) for task in METHOD.tasks}
        for number in range(400)
    ]
    order = np.random.default_rng(1).permutation(400).tolist()
    plan = ListedPlan(MemoryStore(made), [[[number] for number in order]])
    ((label, _),) = reader(plan, BatchLayout(400, None)).prepare(0).micro
    assert label.input_ids[:, -1].tolist() == sorted(order, key=lambda number: -(number % 2))


def test_packed_sequences_of_alike_length_are_computed_together() -> None:
    plan = ListedPlan(MemoryStore(ROWS), [[[1, 4], [2, 9, 13], [7], [11, 3, 5, 6], [8, 20]]])
    micro = reader(plan, BatchLayout(1, None), packed=True).prepare(0).micro
    lengths = [part.input_ids.size for parts in micro for part in parts]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("packed", [False, True])
def test_counts_of_the_plan_are_those_of_the_arrays(packed: bool) -> None:
    sequences = [[4, 9, 2], [13], [22, 7]] if packed else [[number] for number in (4, 9, 2, 13, 22, 7)]
    plan = ListedPlan(MemoryStore(ROWS), [sequences])
    prepared = reader(plan, BatchLayout(2, None), packed=packed).prepare(0)
    counted = dict.fromkeys(METHOD.tasks, 0)
    for parts in prepared.micro:
        for part in parts:
            if isinstance(part, PackedMicroBatch):
                for place, task in enumerate(METHOD.tasks):
                    counted[task] += int((part.labels[part.task_ids == place] != IGNORED).sum())
            else:
                assert isinstance(part, MicroBatch)
                counted[part.task] += loss_tokens(part)
    assert prepared.loss_tokens == counted
    chosen = [ROWS[number] for number in (4, 9, 2, 13, 22, 7)]
    assert prepared.tokens == sum(len(ids) for row in chosen for ids, _ in row.values())
    assert prepared.ids == ["row-4", "row-9", "row-2", "row-13", "row-22", "row-7"]
    progress = Progress()
    progress.add(prepared)
    assert (progress.step, progress.samples, progress.tokens) == (1, 6, prepared.tokens)
    assert progress.loss_tokens == sum(counted.values())


def test_the_order_of_samples_is_the_plans_however_rows_are_laid_out() -> None:
    numbers = [4, 9, 2, 13, 22, 7]
    orders = set()
    for packed, world_size in ((False, 1), (False, 3), (True, 2)):
        sequences = [numbers[:3], numbers[3:]] if packed else [[number] for number in numbers]
        plan = ListedPlan(MemoryStore(ROWS), [sequences])
        progress = Progress()
        progress.add(reader(plan, BatchLayout(1, None), world_size=world_size, packed=packed).prepare(0))
        orders.add(progress.order)
    assert len(orders) == 1


def test_the_hash_of_the_order_is_a_chain_over_all_ids_so_far() -> None:
    steps = [[4, 9, 2], [13, 0], [2, 9]]
    plan = ListedPlan(MemoryStore(ROWS), [[[number] for number in numbers] for numbers in steps])
    progress, chained = Progress(), ""
    for step, numbers in enumerate(steps):
        progress.add(reader(plan, BatchLayout(1, None)).prepare(step))
        for number in numbers:
            chained = hashlib.sha256(f"{chained}row-{number}".encode()).hexdigest()
        assert progress.order == chained


def test_packed_segments_are_the_rows_tasks_in_the_order_of_the_plan() -> None:
    plan = ListedPlan(MemoryStore(ROWS), [[[4, 2]]])
    ((micro,),) = reader(plan, BatchLayout(1, None), packed=True).prepare(0).micro
    assert isinstance(micro, PackedMicroBatch)
    assert not len(ROWS[4]["rationale"][0])
    wanted = [ROWS[4]["label"][0], ROWS[2]["label"][0], ROWS[2]["rationale"][0]]
    assert micro.input_ids.tolist() == [np.concatenate(wanted).tolist()]
    starts = np.flatnonzero(micro.position_ids[0] == 0)
    assert starts.tolist() == [0, len(wanted[0]), len(wanted[0]) + len(wanted[1])]
    assert micro.task_ids[0, starts].tolist() == [0, 0, 1]


def test_encoder_decoders_get_source_and_target() -> None:
    made = memory_store.rows(6, seq2seq=True)
    plan = ListedPlan(MemoryStore(made, seq2seq=True), [[[0], [1], [2]]])
    prepared = reader(plan, BatchLayout(4, None), architecture="seq2seq").prepare(0)
    label, _ = prepared.micro[0]
    assert isinstance(label, MicroBatch)
    assert sorted(real(label)) == sorted([row["label"][0].tolist() for row in made[:3]] + [[0]])
    assert prepared.loss_tokens["label"] == int((label.labels != IGNORED).sum())
    with pytest.raises(ValueError, match="causal"):
        reader(plan, BatchLayout(1, None), packed=True, architecture="seq2seq")


def test_shards_are_asked_for_once_a_window_and_waited_for_before_their_rows_are_read() -> None:
    store = MemoryStore(ROWS)
    windows = {0: (0, 1, 2), 1: (0, 1, 2), 2: (3, 4)}
    plan = ListedPlan(store, [[[0], [5]], [[4], [9]], [[13], [16]]], windows)
    reading = reader(plan, BatchLayout(1, None))
    seen = []
    for step in range(3):
        reading.prepare(step)
        seen.append((list(store.prefetched), sorted(store.waited)))
    assert seen[0] == ([(0, 1, 2)], [0, 1])
    assert seen[1] == ([(0, 1, 2)], [0, 1, 2])
    assert seen[2] == ([(0, 1, 2), (3, 4)], [0, 1, 2, 3, 4])


def test_more_sequences_than_slots_are_refused() -> None:
    plan = ListedPlan(MemoryStore(ROWS), [[[0], [1], [2]]])
    with pytest.raises(ValueError, match="3 sequences do not fit into 2 slots"):
        reader(plan, BatchLayout(1, 2)).prepare(0)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "sizes", [{"global_batch_size": 5}, {"global_batch_tokens": 150}], ids=["rows", "tokens"]
)
def test_an_epoch_of_a_real_plan_trains_every_row_once(sizes: dict[str, Any], packed: bool) -> None:
    store = MemoryStore(ROWS, shard_rows=5)

    def tokens(shard: int) -> np.ndarray:
        found: np.ndarray = np.sum([store.counts(shard, task, "length") for task in METHOD.tasks], axis=0)
        return found

    spec = PlanSpec(
        corpora=(Corpus(tuple(range(6)), (5,) * 6),),
        seed=7,
        window_shards=2,
        pack_tokens=64 if packed else None,
        **sizes,
    )
    plan: Any = BatchPlan(spec, tokens)
    layout = BatchLayout(2, None)
    ids, found, counted = [], 0, 0
    for step in range(plan.steps(1)):
        forwards = set()
        for rank in range(2):
            prepared = reader(plan, layout, rank=rank, world_size=2, packed=packed, store=store).prepare(step)
            forwards.add(len(prepared.micro))
            found += sum(loss_tokens(part) for parts in prepared.micro for part in parts)
        assert len(forwards) == 1
        ids += prepared.ids
        counted += sum(prepared.loss_tokens.values())
    assert sorted(ids) == sorted(f"row-{number}" for number in range(30))
    assert found == counted == sum(map(_loss_tokens, ROWS))


def _loss_tokens(row: memory_store.Row) -> int:
    return sum(int((labels[1:] != IGNORED).sum()) for _, labels in row.values())
