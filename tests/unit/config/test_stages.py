"""`stages:` of one YAML: each stage is a whole config, and what is wrong in one is named with its number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medray.config import Config, dump, read
from medray.config.stages import checkable, stage_configs
from medray.errors import InputError

TREE: dict[str, Any] = {
    "run": {"storage": "runs", "name": "dfpo", "seed": 3},
    "model": {"name": "smollm2-135m-instruct"},
    "data": {"train": ["notes.jsonl"], "max_label_tokens": 64},
    "peft": {"type": "lora", "rank": 8},
    "train": {"max_steps": 10, "optimizer": {"lr": 1e-4, "name": "adamw"}},
    "stages": [
        {"name": "pre", "model": {"quantization": "nf4"}},
        {"name": "pairs", "data": {"train": ["pairs.jsonl"]}, "train": {"optimizer": {"lr": 1e-6}}},
        {"name": "post", "peft": {"type": "none"}},
    ],
}


def write(folder: Path, tree: dict[str, Any] = TREE) -> Path:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def stages(folder: Path, *overrides: str) -> tuple[Config, ...]:
    return stage_configs(read(write(folder), overrides))


def test_a_stage_is_the_top_level_with_its_own_keys_over_it(tmp_path: Path) -> None:
    pre, pairs, post = stages(tmp_path)
    assert [each.run.name for each in (pre, pairs, post)] == ["dfpo.1-pre", "dfpo.2-pairs", "dfpo.3-post"]
    assert {each.run.seed for each in (pre, pairs, post)} == {3}
    assert (pairs.train.optimizer.lr, pairs.train.optimizer.name, pairs.train.max_steps) == (
        1e-6,
        "adamw",
        10,
    )
    assert (pre.train.optimizer.lr, post.train.optimizer.lr) == (1e-4, 1e-4)
    assert (pre.peft.type, pairs.peft.rank, post.peft.type) == ("lora", 8, "none")
    assert not any(each.stages for each in (pre, pairs, post))
    assert "rank" in pairs.peft.model_fields_set
    assert "alpha" not in pairs.peft.model_fields_set


def test_a_name_in_mlflow_gets_the_number_and_name_of_the_stage(tmp_path: Path) -> None:
    overrides = ("tracking.run_name=shown", "stages.3.tracking.run_name=last")
    names = [each.tracking.run_name for each in stages(tmp_path, *overrides)]
    assert names == ["shown.1-pre", "shown.2-pairs", "last"]
    assert [each.tracking.run_name for each in stages(tmp_path)] == [None] * 3


def test_weights_and_tokenizer_are_those_of_the_stage_before(tmp_path: Path) -> None:
    pre, pairs, post = stages(tmp_path)
    assert (pre.model.name, pre.model.quantization) == ("smollm2-135m-instruct", "nf4")
    assert (pairs.model.name, pairs.model.quantization) == (f"{tmp_path}/runs/dfpo.1-pre/merged", "none")
    assert post.model.name == f"{tmp_path}/runs/dfpo.2-pairs/merged"
    assert {each.data.tokenizer for each in (pairs, post)} == {"smollm2-135m-instruct"}
    full = TREE | {"peft": {"type": "none"}}
    assert stage_configs(read(write(tmp_path, full)))[1].model.name == f"{tmp_path}/runs/dfpo.1-pre/export"
    assert {each.model.name for each in checkable((pre, pairs, post))} == {"smollm2-135m-instruct"}


def test_no_stage_trains_on_a_benchmark_of_any_stage(tmp_path: Path) -> None:
    overrides = (
        "data.decontaminate=exam.jsonl",
        "stages.2.data.decontaminate=[letters.jsonl, exam.jsonl]",
        "stages.3.data.decontaminate=[]",
    )
    found = [each.data.decontaminate for each in stages(tmp_path, *overrides)]
    assert found == [(f"{tmp_path}/exam.jsonl", f"{tmp_path}/letters.jsonl")] * 3
    assert [each.data.decontaminate for each in stages(tmp_path)] == [()] * 3


def test_paths_of_a_stage_belong_to_the_file(tmp_path: Path) -> None:
    _, pairs, post = stages(tmp_path)
    assert pairs.data.train[0].path == f"{tmp_path}/pairs.jsonl"
    assert post.data.train[0].path == f"{tmp_path}/notes.jsonl"


def test_what_is_written_down_reads_as_the_same_stages(tmp_path: Path) -> None:
    config = read(write(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "resolved.yaml").write_text(dump(config))
    again = stage_configs(read(tmp_path / "elsewhere" / "resolved.yaml"))
    assert again == stage_configs(config)


def test_an_override_names_a_stage_by_its_number(tmp_path: Path) -> None:
    pre, pairs, _ = stages(tmp_path, "stages.2.train.optimizer.lr=1e-7", "stages.1.data.max_label_tokens=32")
    assert (pairs.train.optimizer.lr, pre.data.max_label_tokens) == (1e-7, 32)


@pytest.mark.parametrize(
    ("stage", "overrides", "key"),
    [
        ({"name": "a b"}, [], "stages[0].name"),
        ({"name": "a", "run": {"seed": 1}}, [], "stages[0].run"),
        ({"name": "a", "method": {"alfa": 1}}, [], "stages.1.method.alfa"),
        ({"name": "a", "train": {"optimizer": {"lr": -1}}}, [], "stages.1.train.optimizer.lr"),
        ({}, [], "stages[0]"),
        ({"name": "a"}, ["stages.2.method.alpha=0.5"], "stages.2.method.alpha"),
        ({"name": "a"}, ["stages.0.method.alpha=0.5"], "stages.0.method.alpha"),
    ],
)
def test_what_is_wrong_is_named_with_its_stage(
    stage: dict[str, Any], overrides: list[str], key: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read(write(tmp_path, TREE | {"stages": [stage]}), overrides)
    assert caught.value.key == key
    assert caught.value.fix
