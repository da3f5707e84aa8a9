"""The end of a generated answer, and the generation settings of an evaluation."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import chains
import numpy as np
import pytest
import tiny
import torch
from tiny_encoder_decoder import encoder_decoder
from transformers import GenerationConfig

from medray.config.peft import PeftConfig
from medray.data.batching.collate import prompts
from medray.data.encode.text_ids import TextIds
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import generate
from medray.models.adapters import add_adapter
from medray.models.export import export, load_export
from medray.models.generation import end_tokens, keep_protocol, unused_note

CPU = torch.device("cpu")
SPEC = tiny.encode_spec()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return chains.chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def perfect(tokenizer: Any, answer: str, end: str) -> tuple[Any, int]:
    """Return (a model that writes `answer`, `end` and then "severe rash" forever, its prompt)."""
    ask, rash = ids(tokenizer, " doctor")[0], ids(tokenizer, " severe rash")
    text = [ask, *ids(tokenizer, answer), tokenizer.convert_tokens_to_ids(end), *rash]
    return chains.chain(len(tokenizer), {**chains.writing(text), rash[-1]: rash[0]}), ask


def written(model: Any, tokenizer: Any, ask: int, **options: Any) -> str:
    batch = prompts([np.array([ask], np.int32)], "causal", tokenizer.pad_token_id)
    [text] = generate(model, tokenizer, batch, Decoding(max_new_tokens=12, **options), device=CPU)
    return text


@pytest.mark.parametrize("beams", [1, 2])
def test_an_answer_ends_at_the_end_token_of_its_template(tokenizer: Any, beams: int) -> None:
    """Use a tokenizer with a different end token, as in base models with a chat template."""
    model, ask = perfect(tokenizer, " mild fever", "<|im_end|>")
    assert written(model, tokenizer, ask) != "mild fever"
    keep_protocol(model, tokenizer, SPEC)
    assert written(model, tokenizer, ask, num_beams=beams) == "mild fever"


@pytest.mark.parametrize("end", ["</s>", "<|im_start|>"])
def test_an_answer_also_ends_at_the_end_tokens_of_tokenizer_and_model(tokenizer: Any, end: str) -> None:
    model, ask = perfect(tokenizer, " mild fever", end)
    model.generation_config.eos_token_id = [1, tokenizer.convert_tokens_to_ids("<|im_start|>")]
    keep_protocol(model, tokenizer, SPEC)
    assert written(model, tokenizer, ask) == "mild fever"


def test_an_end_token_that_is_not_special_is_cut_off(tmp_path: Path) -> None:
    """Use an added token that is not special, which decoding keeps, as end and padding token."""
    made = chains.chat_tokenizer(tmp_path, special=False)
    made.pad_token = made.eos_token
    model, ask = perfect(made, " mild fever", "<|im_end|>")
    model.generation_config.eos_token_id = [made.convert_tokens_to_ids("<|im_end|>")]
    keep_protocol(model, made, SPEC)
    assert written(model, made, ask) == "mild fever"


def test_end_tokens_come_from_tokenizer_template_and_model_but_are_never_words(tokenizer: Any) -> None:
    model, _ = perfect(tokenizer, " mild fever", "</s>")
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    word = ids(tokenizer, " mild")[0]
    model.generation_config.eos_token_id = [start, word]
    model.config.eos_token_id = word  # a class's default in a config that names no end token
    assert end_tokens(model, tokenizer, SPEC) == (tokenizer.eos_token_id, end, start)
    plain = replace(SPEC, template="plain")
    assert end_tokens(model, tokenizer, plain) == (tokenizer.eos_token_id, start)
    assert end_tokens(model, tokenizer, replace(plain, architecture="seq2seq")) == (1, start)


@pytest.mark.parametrize("adapted", [False, True])
def test_an_export_stops_at_the_end_of_its_answers(tokenizer: Any, tmp_path: Path, adapted: bool) -> None:
    model, ask = perfect(tokenizer, " mild fever", "<|im_end|>")
    keep_protocol(model, tokenizer, SPEC)
    base = tmp_path / "base"
    saved = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=1, temperature=0.6, do_sample=True)
    model.save_pretrained(base)
    model = load_export(base, CPU)
    keep_protocol(model, tokenizer, SPEC)
    if adapted:
        model = add_adapter(
            model, PeftConfig(type="lora", rank=2, targets=("q_proj",)), seq2seq=False, seed=1
        )
    export(model, tokenizer, tmp_path / "export", write=True, gathered=lambda _: nullcontext())
    found = json.loads((tmp_path / "export" / "generation_config.json").read_text())
    assert found["eos_token_id"] == saved.eos_token_id == [1, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert found["temperature"] == 0.6, "what the base ships stays with the weights"
    loaded: Any = load_export(tmp_path / "export", CPU)
    assert written(loaded, tokenizer, ask) == "mild fever"
    assert loaded.generation_config.eos_token_id == saved.eos_token_id


def test_settings_of_the_base_are_used_only_with_base_settings(tokenizer: Any) -> None:
    """Use a model that repeats itself, so that a penalty or a minimum length changes its text."""
    mild, fever = ids(tokenizer, " mild")[0], ids(tokenizer, " fever")[0]
    model = chains.chain(len(tokenizer), {mild: fever, fever: 1})
    shipped = {
        "min_length": 6,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [fever],
        "forced_eos_token_id": 1,
        "do_sample": True,
        "temperature": 0.6,
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
        "max_length": 142,
    }
    model.generation_config = GenerationConfig(eos_token_id=1, **shipped)
    assert written(model, tokenizer, mild) == "fever"
    assert written(model, tokenizer, mild, base_settings=True) != "fever"
    assert model.generation_config.min_length == 6, "the model keeps its own"
    note = unused_note(model, base_settings=False)
    assert note is not None
    assert all(f"{name}: {value}" in note for name, value in shipped.items())
    rest = unused_note(model, base_settings=True)
    assert rest is not None
    assert "temperature: 0.6" in rest
    assert "min_length" not in rest
    model.generation_config = GenerationConfig(eos_token_id=1, bos_token_id=0, pad_token_id=0)
    assert unused_note(model, base_settings=False) is None


def test_settings_of_other_decoding_methods_are_named_and_never_used(tokenizer: Any) -> None:
    """Try settings for which generate() needs a tokenizer, remote code, or a draft model."""
    mild, fever = ids(tokenizer, " mild")[0], ids(tokenizer, " fever")[0]
    model = chains.chain(len(tokenizer), {mild: fever, fever: 1})
    others: dict[str, Any] = {
        "stop_strings": ["fever"],
        "penalty_alpha": 0.6,
        "dola_layers": "low",
        "force_words_ids": [[fever]],
        "constraints": ["x"],
        "prompt_lookup_num_tokens": 3,
        "token_healing": True,
        "assistant_early_exit": 1,
        "guidance_scale": 1.5,
        "num_beam_groups": 2,
        "max_time": 0.1,
    }
    for name, value in others.items():
        model.generation_config = GenerationConfig(eos_token_id=1)
        setattr(model.generation_config, name, value)
        for beams in (1, 2):
            assert written(model, tokenizer, mild, base_settings=True, num_beams=beams) == "fever", name
        assert name in str(unused_note(model, base_settings=True))
        note = unused_note(model, base_settings=False)
        assert note is not None
        assert "base_settings" not in note, "there is nothing that it would use"
    model.generation_config = GenerationConfig(eos_token_id=1, min_new_tokens=2, num_beams=4)
    assert str(unused_note(model, base_settings=False)).endswith("base_settings: true to use min_new_tokens")


@pytest.mark.parametrize(("after", "start"), [([9, 1], 0), ([1, 9], 9)], ids=["its end", "its language"])
def test_a_decoder_does_not_start_from_the_end_token(
    after: list[int], start: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets of `[CLS] x [SEP] </s>` keep the model's start token; those of mBART end with their language token."""
    monkeypatch.setattr(TextIds, "around", lambda self, target: ([], after))
    model = encoder_decoder()
    keep_protocol(model, tokenizer, replace(SPEC, architecture="seq2seq"))
    assert model.config.decoder_start_token_id == model.generation_config.decoder_start_token_id == start
