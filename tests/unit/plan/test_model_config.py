"""The class of a model follows from `is_encoder_decoder` and the lists of transformers, never from a name."""

from __future__ import annotations

from typing import Any

import pytest

from medray.errors import InputError
from medray.plan.model_config import PRESETS, architecture, auto_class


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "llama"}, "causal"),
        ({"model_type": "biogpt"}, "causal"),
        ({"model_type": "gpt_neox"}, "causal"),
        ({"model_type": "gemma3"}, "causal"),
        ({"model_type": "bert", "is_decoder": True}, "causal"),
        ({"model_type": "bart", "is_encoder_decoder": False}, "causal"),
        ({"model_type": "pegasus", "is_encoder_decoder": True}, "seq2seq"),
        *(
            ({"model_type": kind}, "seq2seq")  # as old files that leave it out
            for kind in ("t5", "bart", "mbart", "pegasus", "led", "marian", "prophetnet", "blenderbot")
        ),
        *((config, "seq2seq" if name.startswith("t5") else "causal") for name, config in PRESETS.items()),
    ],
)
def test_the_class_is_what_the_config_says(config: dict[str, Any], kind: str) -> None:
    assert architecture(config) == kind
    name = {"causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}[kind]
    assert auto_class(config).__name__ == name


@pytest.mark.parametrize(
    ("config", "says"),
    [
        *(
            ({"model_type": kind}, "it is an encoder")
            for kind in ("bert", "roberta", "electra", "xlm-roberta", "big_bird", "xlnet", "xlm")
        ),
        ({"model_type": "deberta-v2"}, "no causal language model"),
        ({"model_type": "t5", "is_encoder_decoder": False}, "no causal language model"),
        ({"model_type": "llama", "is_encoder_decoder": True}, "no encoder-decoder"),
        ({"model_type": "whisper"}, "no encoder-decoder"),
        ({"model_type": "vit"}, "no causal language model"),
        ({"model_type": "unheard_of"}, "does not know this type"),
        ({"model_type": ["llama"]}, "does not know this type"),
        ({}, "does not know this type"),
    ],
)
def test_a_model_that_cannot_write_text_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        auto_class(config)
    assert caught.value.key == "model_type"
    assert caught.value.fix
