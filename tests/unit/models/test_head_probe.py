"""Losses at the head: the same loss and gradients as from full logits, and models that do not support them."""

from __future__ import annotations

from typing import Any

import memory_store
import pytest
import torch
from losses import loss as loss_with
from memory_store import Row
from tiny_decoders import VOCABULARY, decoder
from torch import Tensor

from medray.data.batching.collate import MicroBatch, PackedMicroBatch, collate, collate_packed
from medray.evaluate.loss_sums import loss_sums
from medray.methods.cross_entropy import TokenLoss
from medray.models.forward import unwrap
from medray.models.probes import takes_losses, vocabulary_size

CPU = torch.device("cpu")
TASKS = ("label", "rationale")
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}


def model_of(kind: str, **values: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    torch.manual_seed(2)
    auto: Any = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    return auto.from_config(AutoConfig.for_model(kind, **values)).train()


def t5(tied: bool) -> Any:
    return model_of(
        "t5", vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, dropout_rate=0.0,
        tie_word_embeddings=tied, decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip


def head_lora() -> Any:
    """Add an adapter, also in the head, whose weights are not zero."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        model_of("llama", **SHAPE, tie_word_embeddings=False),
        LoraConfig(r=2, target_modules=["q_proj", "lm_head"]),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def micro_batches(seq2seq: bool) -> list[MicroBatch | PackedMicroBatch]:
    rows: list[Row] = memory_store.rows(6, seq2seq=seq2seq)
    architecture: Any = "seq2seq" if seq2seq else "causal"
    made: list[MicroBatch | PackedMicroBatch] = [
        collate("label", [row["label"] for row in rows], architecture, 0),
        collate("label", [None], architecture, 0),  # nothing with a loss
    ]
    if not seq2seq:
        packed = [[(place, *pair) for row in rows for place, pair in enumerate(row.values())]]
        made += [collate_packed(packed, 0)]
    return made


def computed(
    model: Any, micro: Any, loss: TokenLoss, seq2seq: bool
) -> tuple[dict[str, float], dict[str, Tensor]]:
    sums = loss_sums(model, micro, loss_with(dict.fromkeys(TASKS, 0.5)), CPU, seq2seq=seq2seq, loss=loss)
    model.zero_grad()
    torch.stack(list(sums.values())).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {task: float(value.detach()) for task, value in sums.items()}, gradients


MODELS: dict[str, Any] = {
    "llama-tiny": lambda: decoder("llama-tiny", "sdpa"),
    "gpt2": lambda: decoder("gpt2", "sdpa"),
    "t5 tied": lambda: t5(True),
    "t5 untied": lambda: t5(False),
    "lora in the head": head_lora,
}


@pytest.mark.parametrize("name", MODELS)
def test_chunks_have_the_loss_and_gradients_of_full_logits(name: str) -> None:
    model, seq2seq = MODELS[name](), name.startswith("t5")
    assert takes_losses(model, CPU, seq2seq=seq2seq)
    assert model.training
    assert vocabulary_size(model) == VOCABULARY
    for micro in micro_batches(seq2seq):
        for smoothing in (0.0, 0.1):
            whole, wanted = computed(model, micro, TokenLoss(smoothing), seq2seq)
            shapes: list[int] = []
            head = unwrap(model).get_output_embeddings()
            hook = head.register_forward_hook(
                lambda m, i, output, shapes=shapes: shapes.append(output.shape[-1])
            )
            sums, gradients = computed(model, micro, TokenLoss(smoothing, 5, 0), seq2seq)
            hook.remove()
            if micro.labels.size > 5:
                assert shapes == [1], "the head gave logits"
            assert sums == pytest.approx(whole, rel=1e-5, abs=1e-6)
            assert gradients.keys() == wanted.keys()
            for key, value in wanted.items():
                torch.testing.assert_close(gradients[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_models_that_transform_their_logits_are_detected() -> None:
    assert takes_losses(
        model_of("gemma2", **SHAPE, head_dim=8, final_logit_softcapping=None), CPU, seq2seq=False
    )
    assert not takes_losses(model_of("gemma2", **SHAPE, head_dim=8), CPU, seq2seq=False)
    assert not takes_losses(model_of("granite", **SHAPE, logits_scaling=8.0), CPU, seq2seq=False)
    assert not takes_losses(model_of("cohere", **SHAPE), CPU, seq2seq=False)


def test_a_head_that_is_not_a_separate_module(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder("llama-tiny")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    assert not takes_losses(model, CPU, seq2seq=False)
