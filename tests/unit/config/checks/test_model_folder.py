"""Forbidden settings in an untrusted model folder are found without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from medray.config.checks.model_folder import check_config, check_folder, check_tokenizer_file
from medray.errors import InputError


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"_attn_implementation": "org/kernel"}, "_attn_implementation"),
        ({"attn_implementation": "org/kernel@main:forward"}, "attn_implementation"),
        ({"text_config": {"_attn_implementation": "paged|org/kernel"}}, "_attn_implementation"),
        ({"attn_implementation": {"": "sdpa", "vision_config": "org/kernel"}}, "attn_implementation"),
        ({"attn_implementation": ["org/kernel"]}, "attn_implementation"),
        ({"_experts_implementation": "org/kernel"}, "_experts_implementation"),
        ({"kernel_config": {"RMSNorm": "org/kernel"}}, "kernel_config"),
        ({"transformers_weights": "adapter_model.bin"}, "transformers_weights"),
    ],
)
def test_what_transformers_would_fetch_is_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        check_config({"model_type": "llama"} | settings, "config.json")
    assert (caught.value.file, caught.value.key) == ("config.json", key)
    assert f"remove {key}" in str(caught.value.fix)


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "encoder_layers", "num_local_experts"])
def test_a_number_of_layers_that_would_fill_the_memory_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=r"more than (2|10),000, the largest that medray accepts"):
        check_config({"model_type": "llama", "text_config": {key: 12_000}}, "config.json")
    check_config({"text_config": {key: 1_000}, "num_labels": 21_000}, "config.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str, tmp_path: Path) -> None:
    for text in ('{"rms_norm_eps": %s}', '{"text_config": {"rope": [{"theta": [%s]}]}}'):
        (tmp_path / "config.json").write_text(text % number)
        with pytest.raises(InputError, match=r"config\.json: (rms_norm_eps|theta) .*is not a finite number"):
            check_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')  # as Mamba 2 is published
    check_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text(f'{{"temperature": {number}}}')
    with pytest.raises(InputError, match=r"generation_config\.json: temperature"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eos_token_id", "x"),
        ("eos_token_id", [[1]]),
        ("eos_token_id", 1.5),
        ("eos_token_id", True),
        ("pad_token_id", {}),
        ("decoder_start_token_id", "2"),
        ("suppress_tokens", 5),
        ("min_length", "6"),
        ("num_beams", 2.5),
        ("repetition_penalty", "1.3"),
    ],
)
def test_settings_of_generation_have_their_types(key: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"eos_token_id": [1, 2], "pad_token_id": -1, "bos_token_id": null}'
    )
    usual = {"eos_token_id": [1, 2], "temperature": 1, "suppress_tokens": [3], "min_length": 0, "top_p": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(usual))
    check_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(usual | {key: value}))
    with pytest.raises(InputError) as caught:
        check_folder(tmp_path)
    assert (caught.value.file, caught.value.key) == (tmp_path / "generation_config.json", key)
    if key in ("eos_token_id", "pad_token_id"):
        with pytest.raises(InputError):
            check_config({key: value}, "config.json")


def test_attention_of_transformers_itself_is_allowed() -> None:
    check_config(
        {"_attn_implementation": "sdpa", "attn_implementation": None, "text_config": {}}, "config.json"
    )
    check_config({"attn_implementation": "eager", "_experts_implementation": "grouped_mm"}, "config.json")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("generation_config.json", "[1]", "generation_config.json: is not a JSON object"),
        ("tokenizer_config.json", "[" * 5000, "tokenizer_config.json: is not readable JSON"),
        (
            "special_tokens_map.json",
            '{"a":' * 70 + "1" + "}" * 70,
            "special_tokens_map.json: contains JSON that is nested deeper",
        ),
        ("adapter_config.json", "{}", "adapter_config.json: the folder contains a model and an adapter"),
    ],
)
def test_other_files_of_the_folder(name: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    check_folder(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says):
        check_folder(tmp_path)


def test_a_pipe_instead_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json: is not a regular file"):
        check_folder(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"model": 5}', "[]", "{", json.dumps({"a": [[]]})])
def test_a_file_that_is_not_a_tokenizer(content: str, tmp_path: Path) -> None:
    check_tokenizer_file(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: "):
        check_tokenizer_file(tmp_path)
