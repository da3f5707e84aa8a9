"""Every setting of an untrusted adapter folder that peft would use is checked, and so is the header of its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from medray.config.checks.adapter_folder import is_adapter, read_adapter
from medray.errors import InputError

LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def adapter(folder: Path, settings: Any) -> Path:
    content = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / "adapter_config.json").write_text(content)
    save_file({"q_proj.lora_A.weight": np.ones((4, 16), np.float32)}, folder / "adapter_model.safetensors")
    return folder


def refused(folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_adapter(folder)
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", "x"),
        ("r", -1),
        ("r", True),
        ("r", 17),  # wider than the weights
        ("lora_alpha", "8"),
        ("lora_dropout", 2),
        ("lora_dropout", float("nan")),
        ("target_modules", "q_proj("),
        ("target_modules", "(a+)+$"),  # runs forever on some names
        ("target_modules", [5]),
        ("target_modules", "q" * 3000),
        ("target_modules", ["q" * 3000]),
        ("rank_pattern", {"(": 4}),
        ("rank_pattern", {"q_proj": "x"}),
        ("base_model_name_or_path", "x" * 3000),
        ("layers_to_transform", "x"),
        ("init_lora_weights", "pissa"),  # it changes the base
        ("modules_to_save", "lm_head"),
        ("megatron_config", {"tensor_model_parallel_size": 1}),  # peft imports what megatron_core names
        ("corda_config", {"cache_file": "x.pt"}),  # peft unpickles it
        ("trainable_token_indices", ["1"]),
        ("target_parameters", "gate.weight"),
        ("target_parameters", [["gate.weight"]]),
        ("peft_type", "VERA"),
        ("peft_type", ["LORA"]),
    ],
)
def test_a_setting_that_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    error = refused(adapter(tmp_path, LORA | {key: value}))
    assert (error.file, error.key) == (tmp_path / "adapter_config.json", key)
    assert len(str(error)) < 600


def test_settings_as_peft_writes_them(tmp_path: Path) -> None:
    usual: dict[str, Any] = {
        "megatron_core": "megatron.core",
        "loftq_config": {},
        "bias": "none",
        "modules_to_save": None,
    }
    patterns = {"target_modules": r".*\.(q|v)_proj", "rank_pattern": {"q_proj": 2}, "use_dora": False}
    settings, tensors = read_adapter(adapter(tmp_path, LORA | usual | patterns))
    assert settings["r"] == 4
    assert [tensor.shape for tensor in tensors.values()] == [(4, 16)]
    assert is_adapter(str(tmp_path))
    assert not is_adapter("x" * 3000)  # a name that is too long for any system


def test_an_adalora_after_a_long_training_or_with_reduced_ranks(tmp_path: Path) -> None:
    steps = {"total_step": 3_000_000, "deltaT": 30_000, "tfinal": 2_000_000}
    settings = {
        "peft_type": "ADALORA",
        "init_r": 24,
        "lora_alpha": 2e6,
        "rank_pattern": {"q_proj": [True] * 24},
    }
    read_adapter(adapter(tmp_path, steps | settings))
    refused(adapter(tmp_path, steps | settings | {"init_r": 25}))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, np.bool_])
def test_a_tensor_of_a_type_that_cannot_be_trained_is_refused(dtype: Any, tmp_path: Path) -> None:
    file = adapter(tmp_path, LORA) / "adapter_model.safetensors"
    save_file({"q_proj.lora_A.weight": np.ones((4, 16), dtype)}, file)
    assert refused(tmp_path).file == file
    save_file({"q_proj.lora_A.weight": np.ones((4, 16), np.float16)}, file)
    read_adapter(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"a":' * 70 + "1" + "}" * 70])
def test_settings_that_are_not_json(content: str, tmp_path: Path) -> None:
    assert refused(adapter(tmp_path, content)).file == tmp_path / "adapter_config.json"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: save_file({}, file),
        lambda file: save_file({"a": np.ones((0, 4), np.float32)}, file),
        lambda file: file.rename(file.with_name("adapter_model.bin")),
    ],
    ids=["pointer", "cut", "nothing", "empty", "pickle"],
)
def test_weights_that_are_damaged(spoil: Any, tmp_path: Path) -> None:
    file = adapter(tmp_path, LORA) / "adapter_model.safetensors"
    spoil(file)
    assert refused(tmp_path).file == file
