"""Variants of distillation against the formula by hand in plain torch, however the batch lies on ranks and forwards."""

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
from tiny_decoders import decoder
from tiny_encoder_decoder import encoder_decoder

from medray.config.method_specs.distill import COSINE
from medray.data.batching.collate import MixedMicroBatch
from medray.evaluate.validation import Validation
from medray.methods import MethodLoss
from medray.train.loop.batch_reader import BatchLayout, BatchReader, Prepared
from medray.train.loop.step import train_step

CPU = torch.device("cpu")
KEYS = tuple(f"rationale/{name}" for name in ("Age", "Sex", "Lab Results", "Other"))
HIERARCHICAL = {"label": 0.3, **dict.fromkeys(KEYS, 0.7)}
BOTH = {"label": 0.3, "rationale": 0.7}
NONE = (np.empty(0, np.int32), np.empty(0, np.int32))
SPLITS = {"1x4": (1, 3), "2x2": (2, 3), "4x1": (4, 3), "3 ranks, micro-batches of 1": (3, 1)}


def keyed(seq2seq: bool, count: int = 11) -> list[Row]:
    """Rows that have few of the keys; none has `Other`, one lacks its label."""
    made: list[Row] = []
    for number, row in enumerate(memory_store.rows(count, tasks=("label", *KEYS), seq2seq=seq2seq)):
        lacks = {"rationale/Other", *(key for place, key in enumerate(KEYS) if number % (place + 2) == 0)}
        lacks |= {"label"} if number == 7 else set()
        made.append({task: NONE if task in lacks else pair for task, pair in row.items()})
    return made


def model(seq2seq: bool) -> Any:
    return encoder_decoder() if seq2seq else decoder("llama-tiny")


def prepared(
    rows: Sequence[Row],
    method: MethodLoss,
    seq2seq: bool,
    *,
    rank: int = 0,
    ranks: int = 1,
    micro: int = 3,
    packed: bool = False,
) -> Prepared:
    numbers = range(len(rows))
    sequences = memory_store.packed(rows, numbers, 64) if packed else [[number] for number in numbers]
    store = MemoryStore(rows, seq2seq=seq2seq)
    parts: tuple[Any, Any] = store, ListedPlan(store, [sequences])
    return BatchReader(
        *parts,
        method,
        BatchLayout(micro, None),
        rank=rank,
        world_size=ranks,
        architecture="seq2seq" if seq2seq else "causal",
        pad_id=0,
        packed=packed,
    ).prepare(0)


def trained(
    rows: Sequence[Row],
    method: MethodLoss,
    seq2seq: bool,
    ranks: int = 1,
    micro: int = 3,
    packed: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Records of all ranks, whose losses add up; the summed gradients; forwards of each rank, all alike."""
    one = model(seq2seq)
    records, forwards = [], set()
    for rank in range(ranks):
        made = prepared(rows, method, seq2seq, rank=rank, ranks=ranks, micro=micro, packed=packed)
        forwards.add(sum(len(parts) for parts in made.micro))
        engine = Accumulator(one, rank)
        records.append(train_step(engine, made, method, lr=0.1, seed=0, step=0, seq2seq=seq2seq))
    assert len(forwards) == 1, "ranks run different numbers of forwards"
    return records, gradients(one), forwards.pop()


def tables(rows: Sequence[Row], seq2seq: bool) -> list[dict[str, Any]]:
    return [
        {
            f"{task}.{name}": array.tolist()
            for task, pair in row.items()
            for name, array in zip(("input_ids", "labels"), pair, strict=True)
        }
        for row in rows
    ]


def by_hand(rows: Sequence[Row], seq2seq: bool, *, reduction: str = "mean", cosine: bool = False) -> Any:
    """(loss, gradients): one row and one task at a time, without padding."""
    one = model(seq2seq)
    have = tables(rows, seq2seq)
    tasks = [task for task in rows[0] if any(len(row[task][0]) for row in rows)]
    means = {task: oracle._mean(one, have, task, seq2seq=seq2seq) for task in tasks}
    rationale = [mean for task, mean in means.items() if task != "label"]
    term = sum(rationale) / (len(rationale) if reduction == "mean" else 1)
    if cosine:
        distances = []
        for row in rows:
            ids = [torch.tensor(row[task][0][None].tolist()) for task in ("label", "rationale")]
            if all(part.numel() for part in ids):
                first, second = (one.encoder(input_ids=part).last_hidden_state[0].mean(0) for part in ids)
                distances.append(1 - first @ second / (first.norm() * second.norm()))
        term = term + sum(distances) / len(distances)
    loss = 0.3 * means["label"] + 0.7 * term
    loss.backward()
    return float(loss.detach()), gradients(one)


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("seq2seq", [True, False], ids=["t5", "causal"])
class TestHierarchical:
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_it_is_the_formula_however_the_batch_is_split(self, seq2seq: bool, reduction: Any) -> None:
        rows, method = keyed(seq2seq), loss_with(HIERARCHICAL, reduction=reduction)
        loss, wanted = by_hand(rows, seq2seq, reduction=reduction)
        for name, (ranks, micro) in SPLITS.items():
            records, found, _ = trained(rows, method, seq2seq, ranks, micro)
            assert sum(record["loss"] for record in records) == pytest.approx(loss, rel=1e-5), name
            assert_same(found, wanted)

    def test_the_record_has_each_key_and_their_term(self, seq2seq: bool) -> None:
        rows, method = keyed(seq2seq), loss_with(HIERARCHICAL)
        (record,), _, _ = trained(rows, method, seq2seq)
        keys = [record[f"loss/{key}"] for key in KEYS[:3]]
        assert "loss/rationale/Other" not in record  # no row has it
        assert record["loss/rationale"] == pytest.approx(sum(keys) / 3)
        assert record["loss"] == pytest.approx(0.3 * record["loss/label"] + 0.7 * sum(keys) / 3)
        assert record["loss_tokens"] == sum(prepared(rows, method, seq2seq).loss_tokens.values())

    def test_what_rows_lack_is_not_computed(self, seq2seq: bool) -> None:
        rows = keyed(seq2seq)
        texts = sum(len(row[key][0]) > 0 for row in rows for key in KEYS)
        _, _, forwards = trained(rows, loss_with(HIERARCHICAL), seq2seq, ranks=2, micro=2)
        assert forwards == -(-len(rows) // 4) + -(-texts // 4)
        mixed = [m for parts in prepared(rows, loss_with(HIERARCHICAL), seq2seq).micro for m in parts][-1]
        assert isinstance(mixed, MixedMicroBatch)

    def test_a_batch_without_any_key_has_its_label(self, seq2seq: bool) -> None:
        rows = [{**row, **dict.fromkeys(KEYS, NONE)} for row in keyed(seq2seq, 4)]
        (record,), _, _ = trained(rows, loss_with(HIERARCHICAL), seq2seq)
        assert record["loss"] == pytest.approx(0.3 * record["loss/label"])
        assert "loss/rationale" not in record
        alone = loss_with(dict.fromkeys(KEYS, 1.0))
        (record,), _, forwards = trained([{key: row[key] for key in KEYS} for row in rows], alone, seq2seq)
        assert (record["loss"], forwards) == (0.0, 1)  # something is computed, so that there is a gradient

    @pytest.mark.parametrize("method", [loss_with(HIERARCHICAL), loss_with(BOTH)], ids=["keys", "plain"])
    def test_evaluation_is_the_same_loss(self, seq2seq: bool, method: MethodLoss) -> None:
        rows = keyed(seq2seq)
        if "rationale" in method.tasks:
            rows = memory_store.rows(7, seq2seq=seq2seq)
        assert_evaluated(rows, method, seq2seq, trained(rows, method, seq2seq)[0][0])


def assert_evaluated(rows: Sequence[Row], method: MethodLoss, seq2seq: bool, record: dict[str, Any]) -> None:
    """Of one and two ranks, the record's loss and parts."""
    store: Any = MemoryStore(rows, seq2seq=seq2seq)
    places = tuple(store.place(number) for number in range(len(rows)))
    split = Validation(store, places, "seq2seq" if seq2seq else "causal", 0, 2)
    totals = split.totals(method)
    for ranks in (1, 2):
        parts = [split.loss_sums(model(seq2seq), method, CPU, rank, ranks) for rank in range(ranks)]
        sums = {term: sum(part[term] for part in parts) for term in method.terms}
        assert method.loss(sums, totals) == pytest.approx(record["loss"], rel=1e-5)
        means = {f"loss/{name}": mean for name, mean in method.means(sums, totals).items()}
        assert means == pytest.approx({name: record[name] for name in means}, rel=1e-5)
        assert means.keys() == {name for name in record if name.startswith("loss/")}


def test_packed_keys_are_the_formula() -> None:
    rows = keyed(seq2seq=False)
    loss, wanted = by_hand(rows, seq2seq=False)
    for ranks, micro in SPLITS.values():
        records, found, _ = trained(rows, loss_with(HIERARCHICAL), False, ranks, micro, packed=True)
        assert sum(record["loss"] for record in records) == pytest.approx(loss, rel=1e-5)
        assert_same(found, wanted)


class TestCosine:
    ROWS = memory_store.rows(9, seq2seq=True)  # every fifth lacks its rationale
    METHOD = loss_with(BOTH, cosine=True)

    def test_it_is_the_formula_however_the_batch_is_split(self) -> None:
        loss, wanted = by_hand(self.ROWS, True, cosine=True)
        for name, (ranks, micro) in SPLITS.items():
            records, found, _ = trained(self.ROWS, self.METHOD, True, ranks, micro)
            assert sum(record["loss"] for record in records) == pytest.approx(loss, rel=1e-5), name
            assert_same(found, wanted)

    def test_it_is_a_part_of_the_record_and_of_the_evaluation(self) -> None:
        (record,), _, _ = trained(self.ROWS, self.METHOD, True)
        assert 0.0 < record["loss/cosine"] < 2.0
        term = record["loss/rationale"] + record["loss/cosine"]
        assert record["loss"] == pytest.approx(0.3 * record["loss/label"] + 0.7 * term)
        assert_evaluated(self.ROWS, self.METHOD, True, record)

    def test_without_pairs_it_is_nothing(self) -> None:
        rows = [{**row, "rationale": NONE} for row in self.ROWS[:3]]
        (record,), _, _ = trained(rows, self.METHOD, True)
        assert record["loss"] == pytest.approx(0.3 * record["loss/label"])
        assert prepared(rows, self.METHOD, True).denominators[COSINE] == 0

    def test_a_causal_model_has_no_encoder(self) -> None:
        with pytest.raises(ValueError, match="encoder"):
            prepared(memory_store.rows(3), self.METHOD, seq2seq=False)


def test_two_forwards_and_one_of_both_tasks_are_the_same_loss() -> None:
    """The cosine's forward holds both tasks: with its term taken away, the loss is that of two forwards."""
    rows = TestCosine.ROWS
    (two,), apart, forwards = trained(rows, loss_with(BOTH), True)
    (one,), _, fewer = trained(rows, loss_with(BOTH, cosine=True), True)
    assert fewer * 2 == forwards
    for name in ("loss/label", "loss/rationale"):
        assert one[name] == pytest.approx(two[name], rel=1e-5)
    assert one["loss"] - 0.7 * one["loss/cosine"] == pytest.approx(two["loss"], rel=1e-5)
    loss, wanted = by_hand(rows, True)
    assert two["loss"] == pytest.approx(loss, rel=1e-5)
    assert_same(apart, wanted)


@pytest.mark.parametrize("packed", [False, True])
def test_the_mean_of_micro_batches_is_another_loss(packed: bool) -> None:
    """micro_batch: of each micro-batch its own means, whatever the others hold; it depends on the split."""
    rows, method = memory_store.rows(9), loss_with(BOTH, norm="micro_batch")
    made = prepared(rows, method, False, packed=packed)
    one, means = model(False), []
    for parts in made.micro:
        total = 0.0
        for micro in parts:
            single = replace(made, micro=[[micro]], micro_batches=1)
            record = train_step(Accumulator(one, 0), single, method, lr=0, seed=0, step=0, seq2seq=False)
            total += record["loss"]
        means.append(total)
    (record,), found, _ = trained(rows, method, False, packed=packed)
    assert record["loss"] == pytest.approx(sum(means) / len(means), rel=1e-5)
    exact = trained(rows, loss_with(BOTH), False, packed=packed)[0][0]
    assert record["loss"] != pytest.approx(exact["loss"], rel=1e-3)
    assert record["loss/label"] == pytest.approx(exact["loss/label"], rel=1e-5)  # as reported: exact
    ranks, gradient, _ = trained(rows, method, False, ranks=3, packed=packed)
    if made.micro_batches == len(made.micro):  # the same micro-batches, on other ranks
        assert sum(one["loss"] for one in ranks) == pytest.approx(record["loss"], rel=1e-5)
        assert_same(gradient, found)


def test_the_mean_of_micro_batches_by_hand() -> None:
    rows = memory_store.rows(4, seq2seq=True)
    (record,), _, _ = trained(rows, loss_with({"label": 1.0}, norm="micro_batch"), True, micro=2)
    order = sorted(rows, key=lambda row: -len(row["label"][0]))
    halves = [tables(half, True) for half in (order[:2], order[2:])]
    with torch.no_grad():
        means = [float(oracle._mean(model(True), half, "label", seq2seq=True)) for half in halves]
    assert record["loss"] == pytest.approx(sum(means) / 2, rel=1e-5)
