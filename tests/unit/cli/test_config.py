"""Tests of `medray config`, docs/reference.md and the JSON schema: they say what the config models say."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from medray.cli.main import main
from medray.config import Config, read
from medray.config.reference import FILES, all_keys, facts_of, files_that_read, keys_in, schema

ROOT = Path(__file__).parents[3]
KEYS = {facts.key: facts for file in reversed(FILES) for facts in all_keys(file)}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_script", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(schema())
    return Draft202012Validator(schema())


# ---- the command


def test_a_key_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "train.max_steps"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"train.max_steps\n  {KEYS['train.max_steps'].meaning}\n")
    for line in (
        r"type +whole number ≥ 1 or null",
        r"default +null",
        r"resume +may change when a run resumes",
        r"declared +medray/config/train.py",
        r"read in +.*medray/train/",
    ):
        assert re.search(line, said), line


def test_a_key_of_a_list_entry_is_explained_with_and_without_its_position(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("data.train.weight", "data.train[].weight", "data.train[3].weight"):
        assert main(["config", name]) == 0
        assert capsys.readouterr().out.startswith("data.train[].weight\n")


def test_a_required_key_has_no_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "train.optimizer.groups.match"]) == 0
    assert "none: a value is required" in capsys.readouterr().out


def test_a_section_lists_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "data.split"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[3:]] == [
        "data.split.validation",
        "data.split.validation_ids",
        "data.split.by",
        "data.split.seed",
    ]
    assert [facts.key for facts in keys_in(facts_of("train.optimizer.groups"))] == [
        f"train.optimizer.groups[].{name}" for name in ("match", "lr", "lr_scale", "weight_decay")
    ]


def test_without_a_key_the_sections_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(Config.model_fields)


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("train.epoch", "did you mean train.epochs?"),
        ("max_steps", "did you mean train.max_steps?"),
        ("data.train.weigth", "did you mean data.train.weight?"),
        ("nothing_of_the_kind", "use a key of a config:"),
        ("", "use a key of a config:"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(
    given: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", given]) == 2
    said = capsys.readouterr().err
    assert "there is no such key" in said
    assert f"Fix: {fix}" in said


def test_every_key_has_a_meaning_and_is_read_somewhere() -> None:
    for facts in KEYS.values():
        assert facts.meaning.endswith("."), facts.key
        if not facts.section:
            assert files_that_read(facts), facts.key


def test_types_and_defaults_are_in_words() -> None:
    assert KEYS["run.seed"].type == "whole number ≥ 0 and < 2,147,483,648"
    assert KEYS["cluster.workers"].type == "whole number ≥ 1 or [whole number ≥ 1, whole number ≥ 1]"
    assert KEYS["peft.targets"].type == "`all-linear` or list of texts"
    assert KEYS["train.optimizer.lr"].default == "5e-05"
    assert not [facts for facts in KEYS.values() if re.search("class|typing|Annotated", facts.type)]


# ---- the schema


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_recipes_name_the_schema_and_fit_it() -> None:
    files = sorted((ROOT / "configs").glob("*.yaml"))
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
        assert named, file
        own = json.loads((file.parent / named[1]).read_text(encoding="utf-8"))
        assert not list(Draft202012Validator(own).iter_errors(yaml.safe_load(text))), file


@pytest.mark.parametrize(
    "tree",
    [
        {"data": {"train": "a.jsonl", "validation": None}},
        {"data": {"train": ["a.jsonl", {"path": "b.jsonl", "weight": 2}], "decontaminate": "c.jsonl"}},
        {"data": {"train": {"path": "a.jsonl", "columns": {"input": "text"}}}},
        {"data": {"columns": {"rationale": None}}, "train": None},
        {"train": {"global_batch_size": None, "global_batch_tokens": 4096, "optimizer": {"lr": 1}}},
        {"cluster": {"workers": [2, 8]}, "peft": {"type": "lora", "targets": ["q", "v"]}},
    ],
)
def test_the_schema_takes_what_read_takes(
    tree: dict[str, Any], validator: Draft202012Validator, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    read(tmp_path / "run.yaml")
    assert not list(validator.iter_errors(tree))


@pytest.mark.parametrize(
    "tree",
    [
        {"train": {"epoch": 1}},
        {"train": {"max_steps": 0}},
        {"method": {"name": "sfft"}},
        {"data": {"train": [{"weight": 1}]}},
    ],
)
def test_the_schema_refuses_what_read_refuses(tree: dict[str, Any], validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(tree))


def test_the_resolved_config_of_a_run_fits_the_schema(validator: Draft202012Validator) -> None:
    assert not list(validator.iter_errors(Config().model_dump(mode="json")))


# ---- the files that the script writes


def test_the_page_and_the_schema_file_are_what_the_script_writes(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python scripts/reference.py"
    assert script.SCHEMA.read_text(encoding="utf-8") == script.schema_text(), (
        "run: python scripts/reference.py"
    )
    assert script.main(["--check"]) == 0
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == script.page()


def test_the_page_has_a_row_for_every_key(script: ModuleType) -> None:
    page = script.page()
    rows = set(re.findall(r"^\| `([^`]+)` \|", page.partition("\n## The file of ")[0], re.MULTILINE))
    keys = {facts.key for facts in all_keys()}
    repeated = {key for key in keys if key.startswith(("data.validation[]", "data.train[].columns."))}
    assert rows == {key for key in keys if "." in key} - repeated
    own = {facts.key for file in FILES if file != "run" for facts in all_keys(file)} - keys
    assert [key for key in own if f"| `{key}` |" not in page] == []
