"""The command `medray predict` up to its cluster: which model and which data it takes, and what it refuses."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from medray.cli import main as command
from medray.cli.asked_model import named_model, split_words
from medray.errors import InputError
from medray.evaluate.decoding import Decoding
from medray.evaluate.prediction.manifest import Manifest
from medray.evaluate.prediction.rows import Part


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Restore the umask and environment that the command sets, and work in a folder of its own."""
    before = os.umask(0o022)
    for name in command.QUIET:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.chdir(tmp_path)
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untuned model with a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tiny.saved_model(folder / "base", "llama-tiny", tiny.token_set(folder, tiny.rows(3)))
    return folder / "base"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert command.main(["predict", *words]) == 2
    text = capsys.readouterr().err
    assert "Fix:" in text
    return text


def test_words_are_data_or_overrides(tmp_path: Path) -> None:
    (tmp_path / "a.b=c.jsonl").write_text("{}\n")
    words = [
        "new.jsonl",
        "eval.batch_size=4",
        "a.b=c.jsonl",
        "s3://bucket/x=1.jsonl",
        "data.columns.input=text",
    ]
    paths, overrides = split_words(words)
    assert paths == ["new.jsonl", "a.b=c.jsonl", "s3://bucket/x=1.jsonl"]
    assert overrides == ["eval.batch_size=4", "data.columns.input=text"]


def test_data_and_keys_are_allowed_after_options() -> None:
    arguments = command._parsed(
        ["predict", "runs/a", "--to", "out", "new.jsonl", "eval.batch_size=4", "--task", "rationale"]
    )
    assert arguments.words == ["new.jsonl", "eval.batch_size=4"]
    with pytest.raises(SystemExit):
        command._parsed(["predict", "runs/a", "--to", "out", "--unknown"])
    with pytest.raises(SystemExit):
        command._parsed(["train", "a.yaml", "--json", "new.jsonl"])


def test_an_untuned_model_takes_prompts_and_decoding_from_the_config(model: Path, tmp_path: Path) -> None:
    folder = model
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"data": {"prompts": {"label": "Sum"}}, "eval": {"generation": {"max_new_tokens": 9}}})
    )
    found = named_model(str(folder), "c.yaml", ["eval.generation.num_beams=2"])
    assert found.run is None
    assert found.asked.spec.prompts["label"] == "Sum"
    assert Decoding.of(found.config.eval.generation) == Decoding(max_new_tokens=9, num_beams=2)
    assert named_model(str(folder), None, ["data.prompts.label=Sum"]).asked.spec.prompts["label"] == "Sum"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing", "new.jsonl", "--to", "out"], "nothing"),
        (["empty", "new.jsonl", "--to", "out"], "neither a finished run nor a model"),
        (["base", "missing.jsonl", "--to", "out"], "missing.jsonl"),
        (["base", "--to", "out"], "no validation data of its own"),
        (["base", "new.jsonl", "--to", "new.jsonl"], "a file, not a folder"),
        (["base", "new.jsonl", "--to", "."], "did not write"),
        (["base", "new.jsonl", "--to", "out", "--task", "rationale/Sex"], "not trained for this task"),
        (["base", "new.jsonl", "--to", "out", "--engine", "vllm"], "not installed"),
        (["base", "new.jsonl", "--to", "out", "--engine", "endpoint"], "no other engine reads one"),
        (["base", "new.jsonl", "--to", "out", "--split", "test"], "exclude each other"),
        (["base", "new.jsonl", "--to", "out", "--part-rows", "0"], "at least one row"),
        (["base", "new.jsonl", "--to", "out", "--temperature", "-1"], "--temperature"),
        (
            ["base", "new.jsonl", "--to", "out", "--temperature", "1", "eval.generation.num_beams=2"],
            "exclude each other",
        ),
        (["base", "new.jsonl", "--to", "out", "--top-p", "0.5"], "no effect at temperature 0"),
        (["https://me:secret@host/run", "new.jsonl", "--to", "out"], "user name or a password"),
    ],
)
def test_wrong_input_ends_with_2_and_a_fix_before_any_cluster(
    words: list[str], said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base").symlink_to(model)
    (tmp_path / "empty").mkdir()
    tiny.write_jsonl(tmp_path / "new.jsonl", [{"input": "zebrafish"}])
    text = refused(capsys, *words)
    assert said in text
    assert "zebrafish" not in text
    assert "secret" not in text


def test_a_run_without_an_export_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("run: {name: run}\n")
    assert "not finished" in refused(capsys, "run", "new.jsonl", "--to", "out")


def test_a_config_whose_run_was_not_started_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("run: {name: notes, storage: runs}\n")
    text = refused(capsys, "c.yaml", "new.jsonl", "--to", "out")
    assert "the run of this config was not started" in text
    assert "medray train c.yaml" in text


def test_a_folder_in_use_or_without_the_right_to_write_is_named_by_its_option(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base").symlink_to(model)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        text = refused(capsys, "base", "new.jsonl", "--to", "out")
    assert "--to: this folder is in use by another start of this command" in text
    text = refused(capsys, "base", "new.jsonl", "--to", "/proc/none")
    assert "--to: this folder cannot be created" in text
    assert "run." not in text


def test_a_key_that_only_training_reads_is_refused_for_an_export(tmp_path: Path) -> None:
    from exports import exported

    tokens = tiny.token_set(tmp_path, tiny.rows(3))
    folder = str(exported(tmp_path, tokens))
    found = named_model(folder, None, ["eval.batch_size=3", "data.columns.input=text"])
    assert (found.config.eval.batch_size, found.config.data.columns.input) == (3, "text")
    assert Decoding.of(found.config.eval.generation) == found.asked.decoding
    for key in ("data.prompts.label=x", "train.max_steps=3", "data.max_input_tokens=9"):
        with pytest.raises(InputError, match="no effect here"):
            named_model(folder, None, [key])


def test_the_rationale_of_a_validation_split_is_asked_from_its_records(model: Path, tmp_path: Path) -> None:
    """Token shards hold the prompts of training alone: nothing would be written for a rationale."""
    from medray.cli.predict.command import asked_command
    from medray.config import Config
    from medray.train.run_folder.finished_run import FinishedRun

    tiny.write_jsonl(tmp_path / "held.jsonl", [{"input": "fever", "label": "a", "rationale": "b"}])
    config = Config.model_validate({"data": {"train": "held.jsonl", "validation": "held.jsonl"}})
    run = FinishedRun(
        folder=tmp_path,
        config=config,
        summary={},
        steps=[],
        tokens=tmp_path / "tokens",
        manifests={"validation": {"rows": 1}},
        adapter=None,
    )
    found = named_model(str(model), None, [])
    spec = replace(found.asked.spec, tasks=("label", "rationale"))
    named = replace(found, run=run, config=config, asked=replace(found.asked, spec=spec))
    for more, whole in (((), None), (("--rationale",), 1)):
        arguments = command._parsed(["predict", str(model), "--to", "out", *more])
        sources = asked_command(arguments, named, [], tmp_path / "out").sources
        assert (None if sources is None else len(sources)) == whole


def test_other_predictions_in_the_folder_are_refused_by_name_and_overwritten_on_request(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medray.cli.predict import work

    (tmp_path / "base").symlink_to(model)
    tiny.write_jsonl(tmp_path / "new.jsonl", [{"input": "fever"}])
    (tmp_path / "out" / "parts").mkdir(parents=True)
    asked: list[Any] = []

    def begin(arguments: Any, made: Any, *rest: Any) -> dict[str, Any]:
        asked.append(made)
        Manifest(
            facts=made.facts, parts=(Part(source=0, position=0, first=0, raw_rows=1, rows=1),), rejected=0
        ).write(made.out)
        return {"status": "stopped", "rows": 1}

    monkeypatch.setattr(work, "predict", begin)
    words = ["predict", "base", "new.jsonl", "--to", "out"]
    assert command.main(words) == 1, "a stop without a signal"
    assert command.main(words) == 1, "the same command continues"
    assert command.main([*words, "--seed", "4", "--temperature", "0.5"]) == 2
    assert "decoding.temperature was 0.0, and is now 0.5" in capsys.readouterr().err
    tiny.write_jsonl(tmp_path / "new.jsonl", [{"input": "cough"}])
    assert command.main(words) == 2
    assert "input 1, new.jsonl was" in capsys.readouterr().err
    (tmp_path / "out" / "predictions.jsonl").write_text("{}")
    assert command.main([*words[:2], "none.jsonl", *words[3:], "--overwrite"]) == 2
    assert (tmp_path / "out" / "predictions.jsonl").exists(), "a command that is refused removes nothing"
    assert command.main([*words, "--overwrite"]) == 1
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    assert len(asked) == 3
