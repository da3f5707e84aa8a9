"""Packed sequences train as if every segment were alone: loss and gradients against rows one by one in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import memory_store
import numpy as np
import oracle
import pytest
import torch
from accumulator import Accumulator, gradients
from losses import loss as loss_with
from memory_store import ListedPlan, MemoryStore, Row
from tiny_decoders import decoder, with_lora
from torch import Tensor

from medray.data.batching.collate import PackedMicroBatch
from medray.train.loop import step as step_module
from medray.train.loop.batch_reader import BatchLayout, BatchReader, Prepared
from medray.train.loop.step import train_step

LABEL, BOTH = {"label": 1.0}, {"label": 0.3, "rationale": 0.7}
PACK_TOKENS = 64
# Uneven rows, and one that is longer than a sequence may be.
ROWS = [*memory_store.rows(13), *memory_store.rows(1, longest=90, seed=6)]
LONG = len(ROWS) - 1


def prepare(
    weights: dict[str, float],
    *,
    packed: bool,
    micro: int = 2,
    rows: Sequence[Row] = ROWS,
    rank: int = 0,
    world_size: int = 1,
) -> Prepared:
    chosen = [{task: row[task] for task in weights} for row in rows]
    numbers = range(len(rows))
    sequences = memory_store.packed(chosen, numbers, PACK_TOKENS) if packed else [[n] for n in numbers]
    store = MemoryStore(chosen)
    parts: tuple[Any, Any] = store, ListedPlan(store, [sequences])
    reader = BatchReader(
        *parts,
        loss_with(weights),
        BatchLayout(micro, None),
        rank=rank,
        world_size=world_size,
        architecture="causal",
        pad_id=0,
        packed=packed,
    )
    return reader.prepare(0)


def trained(
    model: Any, prepared: Prepared, weights: dict[str, float], *, rank: int = 0, seed: int = 0, step: int = 0
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record of a step and its gradients."""
    engine = Accumulator(model, rank)
    record = train_step(engine, prepared, loss_with(weights), lr=0.1, seed=seed, step=step, seq2seq=False)
    return record, gradients(model)


def expected(
    model: Any, weights: dict[str, float], rows: Sequence[Row] = ROWS
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients by the oracle: one row and one task at a time, without padding or packing."""
    tables = [
        {
            f"{task}.{name}": values.tolist()
            for task, pair in row.items()
            for name, values in zip(("input_ids", "labels"), pair, strict=True)
        }
        for row in rows
    ]
    loss = torch.zeros(())
    for task, weight in weights.items():
        loss = loss + weight * oracle._mean(model, tables, task, seq2seq=False)
    loss.backward()
    return float(loss.detach()), gradients(model)


def assert_alike(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    largest = max(float(value.abs().max()) for value in wanted.values())
    assert largest > 1e-2, "there is nothing to compare"
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5 * max(largest, 1.0), msg=name)


def assert_exact(model: Any, weights: dict[str, float], micro: int = 2) -> None:
    loss, wanted = expected(model, weights)
    for packed in (False, True):
        record, found = trained(model, prepare(weights, packed=packed, micro=micro), weights)
        assert record["loss"] == pytest.approx(loss, abs=1e-5), packed
        assert_alike(found, wanted)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("weights", [LABEL, BOTH], ids=["label", "both"])
@pytest.mark.parametrize("name", ["llama-tiny", "gpt2", "qwen2", "mistral-window"])
def test_packed_and_unpacked_equal_rows_alone(name: str, weights: dict[str, float], attention: str) -> None:
    assert_exact(decoder(name, attention), weights)


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_micro_batches_of_any_number_of_sequences(micro: int) -> None:
    """8: more slots than sequences, so some are without weight."""
    assert_exact(decoder("llama-tiny", "sdpa"), BOTH, micro)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_with_gradient_checkpointing_and_lora(attention: str) -> None:
    model = decoder("llama-tiny", attention)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    adapted = with_lora(model)
    assert_exact(adapted, BOTH)
    assert all("lora" in name for name in expected(adapted, BOTH)[1])


def test_a_row_longer_than_a_sequence_is_alone_in_one() -> None:
    micro = [part for parts in prepare(BOTH, packed=True, micro=1).micro for part in parts]
    longest = micro[0]
    assert isinstance(longest, PackedMicroBatch)
    ids = [task[0].tolist() for task in ROWS[LONG].values()]
    assert longest.input_ids.tolist() == [[token for task in ids for token in task]]
    assert longest.input_ids.size > PACK_TOKENS
    assert longest.position_ids[0, len(ids[0])] == 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama-tiny", "gpt2"])
def test_positions_that_do_not_restart_would_be_noticed(name: str, attention: str) -> None:
    """The comparison above is no empty one: without boundaries loss and gradients are others."""
    model, prepared = decoder(name, attention), prepare(BOTH, packed=True)

    def leaking(micro: Any) -> PackedMicroBatch:
        positions = np.zeros_like(micro.labels) + np.arange(micro.labels.shape[1])
        changed: PackedMicroBatch = replace(micro, position_ids=positions)
        return changed

    leaky = replace(prepared, micro=[[leaking(part) for part in parts] for parts in prepared.micro])
    loss, wanted = expected(model, BOTH)
    record, found = trained(model, leaky, BOTH)
    assert abs(record["loss"] - loss) > 1e-3
    with pytest.raises(AssertionError):
        assert_alike(found, wanted)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("world_size", "micro"), [(2, 1), (3, 2)])
def test_ranks_share_a_batch_without_changing_it(world_size: int, micro: int, packed: bool) -> None:
    """Batches by tokens: slots follow from the step's sequences, the same number of forwards on all ranks."""
    model = decoder("qwen2", "sdpa")
    loss, wanted = expected(model, BOTH)
    parts = [
        prepare(BOTH, packed=packed, micro=micro, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(part.micro) for part in parts}) == 1
    assert len({tuple(part.loss_tokens.items()) for part in parts}) == 1
    seen = [trained(model, part, BOTH, rank=rank) for rank, part in enumerate(parts)]
    assert sum(record["loss"] for record, _ in seen) == pytest.approx(loss, abs=1e-5)
    summed = {name: sum(found[name] for _, found in seen if name in found) for name in wanted}
    assert_alike(summed, wanted)  # type: ignore[arg-type]


def test_the_record_of_a_packed_step() -> None:
    model, prepared = decoder("llama-tiny"), prepare(BOTH, packed=True)
    record, _ = trained(model, prepared, BOTH)
    unpacked, _ = trained(model, prepare(BOTH, packed=False), BOTH)
    same = ("loss", "loss/label", "loss/rationale", "tokens", "loss_tokens")
    assert [record[name] for name in same] == pytest.approx([unpacked[name] for name in same], abs=1e-5)
    assert record["computed_tokens"] == sum(part.input_ids.size for (part,) in prepared.micro)
    assert record["tokens"] <= record["computed_tokens"] < unpacked["computed_tokens"]


def test_a_task_that_no_row_has_adds_nothing() -> None:
    rows = [ROWS[4], ROWS[9]]
    assert all(not len(row["rationale"][0]) for row in rows)
    model = decoder("llama-tiny")
    record, found = trained(model, prepare(BOTH, packed=True, rows=rows), BOTH)
    loss, wanted = expected(model, {"label": 0.3}, rows)
    assert record["loss"] == pytest.approx(loss, abs=1e-5)
    assert "loss/rationale" not in record
    assert_alike(found, wanted)
    record, found = trained(model, prepare({"rationale": 1.0}, packed=True, rows=rows), {"rationale": 1.0})
    assert record["loss"] == 0
    assert all(not value.any() for value in found.values())


def test_dropout_is_drawn_from_seed_step_and_rank_alone() -> None:
    model, prepared = decoder("gpt2", dropout=0.2), prepare(BOTH, packed=True)

    def loss(**drawn: int) -> float:
        return float(trained(model, prepared, BOTH, **drawn)[0]["loss"])

    first = loss()
    torch.rand(7)
    assert loss() == first
    model.eval()  # as an evaluation leaves it
    assert loss() == first
    assert model.training
    others = [{"seed": 1}, {"rank": 1}, {"step": 1}, {"step": 2}, {"seed": 1, "step": 1, "rank": 1}]
    others += [{"seed": 1, "step": 11}, {"seed": 11, "step": 1}]  # digits alone would be the same
    assert len({first, *(loss(**drawn) for drawn in others)}) == 1 + len(others)


def test_a_penalty_on_the_weights_counts_once_a_step_whatever_the_forwards_and_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of two ranks adds half of it, at one of its forwards."""
    model, prepared = decoder("llama-tiny"), prepare(BOTH, packed=True, micro=1)
    assert len(prepared.micro) > 2

    def backed(penalty: float | None) -> float:
        engine, seen = Accumulator(model, 0), list[float]()
        engine.world_size = 2
        engine.backward = lambda loss: seen.append(float(loss.detach()))  # type: ignore[method-assign]
        value = None if penalty is None else torch.tensor(penalty)
        monkeypatch.setattr(step_module, "orthogonal_penalty", lambda model: value)
        train_step(engine, prepared, loss_with(BOTH), lr=0.1, seed=0, step=0, seq2seq=False)
        return sum(seen)

    assert backed(6.0) - backed(None) == pytest.approx(3.0, abs=1e-4)


def test_the_forwards_of_a_step_have_dropout_of_their_own() -> None:
    """The same rows in two micro-batches of one step: their losses differ."""
    model = decoder("gpt2", dropout=0.2)
    prepared = prepare(LABEL, packed=True, rows=ROWS[:2], micro=1)
    (micro,) = prepared.micro[0]
    engine, seen = Accumulator(model, 0), list[float]()
    backward = engine.backward

    def watched(loss: torch.Tensor) -> None:
        seen.append(float(loss.detach()))
        backward(loss)

    engine.backward = watched  # type: ignore[method-assign]
    twice = replace(prepared, micro=[[micro], [micro]])
    train_step(engine, twice, loss_with(LABEL), lr=0.1, seed=0, step=0, seq2seq=False)
    assert len(set(seen)) == 2
