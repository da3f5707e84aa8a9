"""The probe whether a causal model sees the tokens that it is trained to predict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_decoders import DECODERS, VOCABULARY, decoder, with_lora

from medray.errors import InputError
from medray.models.probes import refuse_sight_ahead, sees_ahead

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_see_no_later_token(name: str) -> None:
    assert not sees_ahead(decoder(name), CPU)


def test_no_later_token_is_seen_with_an_adapter_or_in_16_bits_and_the_model_is_unchanged() -> None:
    model = with_lora(decoder("llama-tiny", dtype=torch.bfloat16, dropout=0.5))
    state = torch.get_rng_state()
    assert not sees_ahead(model, CPU)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("decodes", [False, True])
def test_an_encoder_sees_later_tokens_unless_it_is_a_decoder(decodes: bool) -> None:
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    model = BertLMHeadModel(
        BertConfig(**sizes, num_hidden_layers=1, vocab_size=VOCABULARY, is_decoder=decodes)
    )
    assert sees_ahead(model, CPU) is not decodes
    if not decodes:
        with pytest.raises(InputError, match="see its labels"):
            refuse_sight_ahead(model, CPU)
