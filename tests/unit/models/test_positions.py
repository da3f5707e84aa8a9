"""The number of positions of models of every kind, from tiny configs."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_decoders
import torch

from medray.models.load import skeleton
from medray.models.positions import Positions, positions
from medray.plan.model_config import PRESETS

_BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "vocab_size": 96,
    "pad_token_id": 1,
}
_GPT = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 96}
_SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 96}
KINDS: dict[str, tuple[dict[str, Any], Positions]] = {
    "learned": (tiny_decoders.DECODERS["gpt2"] | {"vocab_size": 160}, Positions(160, hard=True)),
    "learned, two rows more": (tiny_decoders.DECODERS["opt"], Positions(160, hard=True)),
    "learned, behind the padding": (
        {"model_type": "roberta", "is_decoder": True, "pad_token_id": 1, "max_position_embeddings": 66, **_SHAPE},
        Positions(64, hard=True),
    ),
    "learned, of a class's default": ({"model_type": "gpt_bigcode", **_GPT}, Positions(1024, hard=True)),
    "sines in a buffer": (
        {"model_type": "gptj", "n_positions": 48, "rotary_dim": 8, **_GPT}, Positions(48, hard=True)
    ),
    "bart": ({"model_type": "bart", "max_position_embeddings": 50, **_BART}, Positions(50, 50, hard=True)),
    "sines in an embedding": (
        {"model_type": "pegasus", "max_position_embeddings": 50, **_BART}, Positions(50, 50, hard=True)
    ),
    "one for each half": (
        {"model_type": "led", "max_encoder_position_embeddings": 80, "max_decoder_position_embeddings": 40,
         "attention_window": 8, **_BART},
        Positions(80, 40, hard=True),
    ),
    "sines that grow": (
        {"model_type": "m2m_100", "max_position_embeddings": 50, **_BART}, Positions(50, 50, hard=False)
    ),
    "sines that grow in an embedding": (
        {"model_type": "fsmt", "langs": ["en", "de"], "src_vocab_size": 96, "tgt_vocab_size": 96,
         "max_position_embeddings": 50, **_BART},
        Positions(50, 50, hard=False),
    ),
    "a decoder that reads the next position": (
        {"model_type": "prophetnet", "hidden_size": 16, "num_encoder_layers": 1, "num_decoder_layers": 1,
         "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2, "encoder_ffn_dim": 16,
         "decoder_ffn_dim": 16, "vocab_size": 96, "pad_token_id": 0, "max_position_embeddings": 50},
        Positions(49, 48, hard=True),
    ),
    "alibi in a table": (
        {"model_type": "mpt", "d_model": 32, "n_heads": 4, "n_layers": 1, "vocab_size": 96, "max_seq_len": 48},
        Positions(48, hard=True),
    ),
    "rotary": (PRESETS["llama-tiny"], Positions(2048)),
    "relative": (PRESETS["t5-tiny"] | {"n_positions": 512}, Positions()),
    "alibi": ({"model_type": "bloom", "n_layer": 1, "n_head": 4, "hidden_size": 32}, Positions()),
    "alibi in a rotary family": ({"model_type": "falcon", "alibi": True, **_SHAPE}, Positions()),
    "recurrent": (tiny_decoders.DECODERS["mamba"], Positions()),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_read_from_the_model(kind: str) -> None:
    config, wanted = KINDS[kind]
    assert positions(config) == wanted


@pytest.mark.parametrize(
    "kind", ["learned", "learned, two rows more", "sines in a buffer", "alibi in a table"]
)
def test_a_row_of_the_limit_runs_and_a_longer_one_fails_if_the_limit_is_hard(kind: str) -> None:
    """Run the model to check what `hard` says."""
    config, wanted = KINDS[kind]
    assert wanted.source is not None
    model = skeleton(config).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in [*model.parameters(), *model.buffers()]:
            parameter.zero_()
        model(torch.ones((1, wanted.source), dtype=torch.long))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.ones((1, wanted.source + 1), dtype=torch.long))


def test_a_prophetnet_target_of_the_limit_runs_and_a_longer_one_fails() -> None:
    config, wanted = KINDS["a decoder that reads the next position"]
    model = skeleton(config).to_empty(device="cpu")
    source = torch.ones((1, 4), dtype=torch.long)
    assert wanted.target is not None
    with torch.no_grad():
        for parameter in [*model.parameters(), *model.buffers()]:
            parameter.zero_()
        model(source, decoder_input_ids=torch.ones((1, wanted.target), dtype=torch.long))
        with pytest.raises(IndexError):
            model(source, decoder_input_ids=torch.ones((1, wanted.target + 1), dtype=torch.long))
