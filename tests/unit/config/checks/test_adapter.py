"""Combinations of adapters and 4-bit weights that cannot work are refused, with the key and a fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from medray.config import Config, dump, read
from medray.config.checks.adapter import check_adapter
from medray.config.peft import PeftConfig
from medray.errors import InputError


def refused(**sections: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        check_adapter(Config.model_validate(sections))
    assert caught.value.fix
    return caught.value


STAGE_0 = {"zero_stage": 0}
DISTILL = {"name": "distill"}


@pytest.mark.parametrize(
    ("sections", "key", "said"),
    [
        ({"peft": {"type": "prefix", "rank": 4}}, "peft.rank", "has no effect with peft.type: prefix"),
        ({"peft": {"alpha": 4.0}}, "peft.alpha", "has no effect with peft.type: none"),
        ({"peft": {"type": "prompt", "dropout": 0.1}}, "peft.dropout", "no effect"),
        ({"peft": {"type": "ia3", "targets": ["q"]}}, "peft.targets", "no effect"),
        ({"peft": {"type": "adalora", "rank": 4}, "train": STAGE_0}, "peft.rank", "no effect"),
        ({"peft": {"type": "adalora", "dora": True}, "train": STAGE_0}, "peft.dora", "no effect"),
        ({"peft": {"type": "prompt", "rslora": True}}, "peft.rslora", "no effect"),
        ({"peft": {"type": "lora", "virtual_tokens": 3}}, "peft.virtual_tokens", "no effect"),
        ({"peft": {"type": "prefix", "init_text": "a"}}, "peft.init_text", "no effect"),
        ({"peft": {"type": "prompt", "task_rank": 2}}, "peft.task_rank", "no effect"),
        ({"peft": {"type": "lora", "adalora": {"tinit": 3}}}, "peft.adalora", "no effect"),
        (
            {"peft": {"type": "lora", "targets": []}},
            "peft.targets",
            "the list is empty, so no module would get an adapter",
        ),
        ({"peft": {"type": "multitask_prompt"}}, "peft.type", "this run has one task"),
        (
            {"peft": {"type": "adalora", "adalora": {"init_rank": 4, "target_rank": 4}}, "train": STAGE_0},
            "peft.adalora.target_rank",
            "init_rank, which is 4",
        ),
        ({"peft": {"type": "adalora"}}, "train.zero_stage", "its ranks would never change"),
        (
            {
                "peft": {"type": "adalora", "adalora": {"tinit": 3, "tfinal": 3}},
                "train": STAGE_0 | {"max_steps": 4},
            },
            "peft.adalora.tinit",
            "no step is left in between",
        ),
        (
            {"peft": {"type": "lora", "dora": True}, "train": {"zero_stage": 3}},
            "train.zero_stage",
            "norms of full weights",
        ),
        (
            {"peft": {"type": "adalora"}, "train": STAGE_0 | {"precision": "bf16"}},
            "train.precision",
            "float32",
        ),
        ({"peft": {"type": "prompt"}, "data": {"pack_tokens": 64}}, "data.pack_tokens", "share one prompt"),
        (
            {"peft": {"type": "prefix"}, "train": {"gradient_checkpointing": True}},
            "train.gradient_checkpointing",
            "cache of keys and values",
        ),
        ({"model": {"double_quantization": False}}, "model.double_quantization", "no effect"),
        ({"model": {"compute_dtype": "bf16"}}, "model.compute_dtype", "no effect"),
        ({"model": {"quantization": "nf4"}}, "model.quantization", "cannot be trained without an adapter"),
        (
            {"model": {"quantization": "nf4", "init": "random"}, "peft": {"type": "lora"}},
            "model.quantization",
            "not random ones",
        ),
        (
            {
                "model": {"quantization": "nf4"},
                "peft": {"type": "lora"},
                "train": {"zero_stage": 3},
            },
            "train.zero_stage",
            "stage 3 with 4-bit weights",
        ),
    ],
)
def test_combinations_that_cannot_work(sections: dict[str, Any], key: str, said: str) -> None:
    error = refused(**sections)
    assert error.key == key
    assert said in str(error)


@pytest.mark.parametrize(
    "sections",
    [
        {"peft": {"type": kind}, "method": DISTILL, "train": STAGE_0}
        for kind in ("none", "lora", "adalora", "ia3", "prefix", "prompt", "multitask_prompt")
    ]
    + [
        {"peft": {"type": "lora", "rslora": True, "dora": True}, "train": {"zero_stage": 2}},
        {"peft": {"type": "prompt"}, "train": {"zero_stage": 3, "gradient_checkpointing": True}},
        {"peft": {"type": "none", "rank": 4}},
        {"peft": {"type": "lora"}, "model": {"quantization": "nf4", "compute_dtype": "bf16"}},
    ],
)
def test_combinations_that_work_survive_writing_and_reading(sections: dict[str, Any], tmp_path: Path) -> None:
    config = Config.model_validate(sections)
    check_adapter(config)
    file = tmp_path / "config.yaml"
    file.write_text(dump(config))
    again = read(file)
    check_adapter(again)
    assert again.peft == config.peft


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = refused(peft={"type": "lora"}, model={"quantization": "nf4"})
    assert "bitsandbytes is not installed" in str(error)
    assert error.fix is not None
    assert "medray[quant]" in error.fix


def adapter(folder: Path, **settings: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"q.lora_A.weight": np.ones((8, 16), np.float32)}, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_to_start_from(tmp_path: Path) -> None:
    lora = adapter(tmp_path / "lora", peft_type="LORA", r=4, lora_alpha=8, target_modules=["q", "v"])
    for peft in (
        {"type": "lora"},
        {"type": "lora", "rank": 4, "alpha": 8.0, "targets": ["q", "v"]},
        {"type": "lora", "targets": ["v", "q"]},
    ):
        check_adapter(Config.model_validate({"peft": peft, "model": {"adapter": str(lora)}}))
    for peft, key, said in (
        ({"type": "prefix"}, "model.adapter", "has the type lora, but peft.type is prefix"),
        ({}, "model.adapter", "has the type lora, but peft.type is none"),
        ({"type": "lora", "rank": 8}, "peft.rank", "differs from that of the adapter"),
        ({"type": "lora", "targets": ["v"]}, "peft.targets", "differs from that of the adapter"),
    ):
        error = refused(peft=peft, model={"adapter": str(lora)})
        assert (error.key, said in str(error)) == (key, True), str(error)
    drawn = refused(peft={"type": "lora"}, model={"adapter": str(lora), "init": "random"})
    assert "but model.init is random" in str(drawn)
    for key, value in (("modules_to_save", ["lm_head"]), ("bias", "all")):
        more = adapter(tmp_path / key, peft_type="LORA", **{key: value})
        assert f"{key} in its adapter_config.json adds weights" in str(
            refused(peft={"type": "lora"}, model={"adapter": str(more)})
        )
    shrunk = adapter(tmp_path / "adalora", peft_type="ADALORA")
    error = refused(peft={"type": "adalora"}, train=STAGE_0, model={"adapter": str(shrunk)})
    assert "cannot shrink again" in str(error)
    other = adapter(tmp_path / "other", peft_type="VERA")
    assert "'VERA'" in str(refused(peft={"type": "lora"}, model={"adapter": str(other)}))
    assert "not a folder with" in str(refused(peft={"type": "lora"}, model={"adapter": str(tmp_path)}))
    (lora / "adapter_config.json").write_text("{")
    assert "not readable" in str(refused(peft={"type": "lora"}, model={"adapter": str(lora)}))


def test_a_relative_adapter_begins_at_the_config(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {adapter: old/export}")
    assert read(file).model.adapter == str(tmp_path / "old" / "export")


def test_the_description_of_an_adapter() -> None:
    assert PeftConfig(type="lora", rank=4).describe() == "lora rank 4"
    assert PeftConfig(type="adalora").describe() == "adalora rank 12 to 8"
    assert PeftConfig(type="ia3").describe() == "ia3"
