"""Rows that are longer than the model's positions: refused, or told, before a worker starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_decoders

from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.train.driver.data_phase import Encoding
from medray.train.driver.row_lengths import check_positions

GPT = tiny_decoders.DECODERS["gpt2"] | {"vocab_size": 400}
BART = {"model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 400}  # fmt: skip


class Watch:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def phase(self, name: str, detail: str = "") -> None:
        assert name == "note"
        self.notes.append(detail)

    def beat(self) -> None:
        pass


def notes(folder: Path, sets: dict[str, TokenSet], model: dict[str, Any], **sections: Any) -> list[str]:
    plan = tiny.plan(folder / "run", sets["train"], "llama-tiny", **sections)
    watch = Watch()
    check_positions(plan.config, model, Encoding(sets), watch)
    return watch.notes


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenSet]:
    folder = tmp_path_factory.mktemp("causal")
    return {
        name: tiny.token_set(folder / name, tiny.rows(9, seed), name=name, truth=True)
        for seed, name in enumerate(("train", "validation"))
    }


def longest(tokens: TokenSet) -> int:
    store = tokens.store()
    return max(len(store.example(*place, task)[0]) for place in tokens.rows() for task in tokens.spec.tasks)


def test_learned_positions_hold_the_longest_row_or_the_run_is_refused(
    causal: dict[str, TokenSet], tmp_path: Path
) -> None:
    most = max(longest(tokens) for tokens in causal.values())
    asked: dict[str, Any] = {"data": {"max_input_tokens": 64, "max_label_tokens": 32}}
    assert notes(tmp_path, causal, GPT | {"n_positions": most}, **asked) == []
    with pytest.raises(InputError, match=rf"{most} tokens, but the model has {most - 1} positions") as caught:
        notes(tmp_path, causal, GPT | {"n_positions": most - 1}, **asked)
    assert "data.max_input_tokens" in str(caught.value)
    assert isinstance(caught.value.fix, str)
    assert f"data.max_input_tokens: {min(63, most - 1 - 32 - 32)}" in caught.value.fix
    prompt = {"peft": {"type": "prompt", "virtual_tokens": 5}, **asked}
    assert notes(tmp_path, causal, GPT | {"n_positions": most + 5}, **prompt) == []
    with pytest.raises(InputError, match=rf"{most + 5} tokens, but the model has {most + 4} positions"):
        notes(tmp_path, causal, GPT | {"n_positions": most + 4}, **prompt)


def test_what_is_generated_has_to_fit_too(causal: dict[str, TokenSet], tmp_path: Path) -> None:
    held_out = causal["validation"]
    prompt = max(len(held_out.store().prompt(*place)) for place in held_out.rows()[:4])
    generation = {"rows": 4, "max_new_tokens": 100}
    asked: dict[str, Any] = {"eval": {"metrics": ["rouge"], "generation": generation}}
    assert notes(tmp_path, causal, GPT | {"n_positions": prompt + 100}, **asked) == []
    with pytest.raises(InputError, match="generated after it") as caught:
        notes(tmp_path, causal, GPT | {"n_positions": prompt + 99}, **asked)
    assert "eval.generation.max_new_tokens: 99" in str(caught.value.fix)


def test_rotary_positions_are_a_note_with_numbers(causal: dict[str, TokenSet], tmp_path: Path) -> None:
    most = max(longest(tokens) for tokens in causal.values())
    model = tiny.model_dict("llama-tiny") | {"vocab_size": 400}
    assert notes(tmp_path, causal, model | {"max_position_embeddings": most}) == []
    [note] = notes(tmp_path, causal, model | {"max_position_embeddings": most - 1})
    assert f"{most} tokens, but the model was made for {most - 1} positions" in note
    assert "data.max_input_tokens: " in note


def test_each_half_of_an_encoder_decoder_has_its_own(tmp_path: Path) -> None:
    sets = {"train": tiny.token_set(tmp_path, tiny.rows(9), architecture="seq2seq")}
    store = sets["train"].store()
    rows = [store.example(*place, task) for place in sets["train"].rows() for task in ("label", "rationale")]
    source, target = (max(len(row[half]) for row in rows) for half in (0, 1))
    assert target < source
    assert notes(tmp_path, sets, BART | {"max_position_embeddings": source}) == []
    with pytest.raises(InputError, match=rf"the longest input .* {source} tokens") as caught:
        notes(tmp_path, sets, BART | {"max_position_embeddings": source - 1})
    assert str(caught.value.fix).startswith("use data.max_input_tokens: ")
    led = BART | {"model_type": "led", "attention_window": 8, "max_encoder_position_embeddings": 200}
    with pytest.raises(InputError, match=rf"the longest target .* {target} tokens"):
        notes(tmp_path, sets, led | {"max_decoder_position_embeddings": target - 1})
    assert notes(tmp_path, sets, tiny.model_dict("t5-tiny") | {"vocab_size": 400}) == []
