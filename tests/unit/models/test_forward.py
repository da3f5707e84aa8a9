"""Logits of packed sequences: their positions, their order, and every code path through the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from memory_store import Row, rows
from tiny_decoders import VOCABULARY, decoder
from torch import Tensor, nn

from medray.data.batching.collate import collate_packed
from medray.data.encode import IGNORED
from medray.models.forward import packed_logits

MADE = rows(6)


def arrays(sequences: list[list[Row]]) -> list[Tensor]:
    micro = collate_packed(
        [
            [(place, *pair) for row in sequence for place, pair in enumerate(row.values())]
            for sequence in sequences
        ],
        0,
    )
    return [
        torch.from_numpy(array)
        for array in (micro.input_ids, micro.position_ids, micro.task_ids, micro.labels)
    ]


def alone(model: Any, task: str) -> tuple[Tensor, Tensor]:
    """Return the logits and labels of one task, from one row at a time, of all sequences in order."""
    logits, labels = [], []
    for row in MADE:
        ids, wanted = (torch.from_numpy(array).long() for array in row[task])
        if len(ids):
            chosen = wanted[1:] != IGNORED
            logits.append(model(input_ids=ids[None]).logits[0, :-1][chosen])
            labels.append(wanted[1:][chosen])
    return torch.cat(logits), torch.cat(labels)


def assert_alone(model: Any, found: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, tasks = found
    assert tasks.tolist() == sorted(tasks.tolist())
    for place, task in enumerate(("label", "rationale")):
        wanted_logits, wanted_labels = alone(model, task)
        assert labels[tasks == place].tolist() == wanted_labels.tolist()
        torch.testing.assert_close(logits[tasks == place], wanted_logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sequences", [[MADE], [MADE[:1], MADE[1:5], MADE[5:]]], ids=["one", "three"])
def test_logits_equal_those_of_single_rows_ordered_by_task(sequences: list[list[Row]]) -> None:
    model = decoder("llama-tiny", "sdpa")
    assert_alone(model, packed_logits(model, *arrays(sequences)))


def test_the_head_runs_only_on_positions_with_a_label() -> None:
    model = decoder("llama-tiny")
    seen: list[torch.Size] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    batch = arrays([MADE[:3], MADE[3:]])
    packed_logits(model, *batch)
    assert seen == [(1, int((batch[3] != IGNORED).sum()), VOCABULARY)]
    assert seen[0].numel() < batch[0].numel() * VOCABULARY / 2
    assert not model.lm_head._forward_pre_hooks


def test_a_head_that_is_not_a_separate_module(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder("llama-tiny")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    assert_alone(model, packed_logits(model, *arrays([MADE[:3], MADE[3:]])))


def test_without_labels_one_position_is_computed_with_gradients() -> None:
    model = decoder("llama-tiny")
    for batch in (arrays([[]]), arrays([[{"label": pair} for pair in [MADE[0]["label"]]], []])):
        batch[3] = torch.full_like(batch[3], IGNORED)
        logits, labels, tasks = packed_logits(model, *batch)
        assert (logits.shape, labels.tolist(), tasks.tolist()) == ((1, VOCABULARY), [IGNORED], [0])
        (logits.sum() * 0).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_flash_attention_gets_one_row_with_restarting_positions() -> None:
    """Use a substitute that reads restarting positions as FlashAttention does, and no mask."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    def segments(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        *,
        position_ids: Tensor,
        **_: Any,
    ) -> Any:
        assert mask is None
        assert query.shape[0] == position_ids.shape[0] == 1
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        sizes = torch.diff(
            torch.cat([(position_ids[0] == 0).nonzero()[:, 0], torch.tensor([query.shape[2]])])
        )
        parts = zip(*(x.split(sizes.tolist(), dim=2) for x in (query, key, value)), strict=True)
        found = [nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True) for q, k, v in parts]
        return torch.cat(found, dim=2).transpose(1, 2), None

    AttentionInterface.register("stand_in_flash", segments)
    AttentionMaskInterface.register("stand_in_flash", flash_attention_mask)
    model = decoder("llama-tiny")
    model.config._attn_implementation = "stand_in_flash"
    found = packed_logits(model, *arrays([MADE[:1], MADE[1:5], MADE[5:]]))
    model.config._attn_implementation = "eager"
    assert_alone(model, found)
