"""A run name that was used before: which keys may change, what is said of them, and how the old run is put aside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import until

from medray.config import Config, dump
from medray.errors import InputError
from medray.tracking import Ledger, TrackingSpec
from medray.train.run_folder import lock
from medray.train.run_folder.changes import MOST_SHOWN, check_unchanged
from medray.train.run_folder.earlier_run import finished_result, move_aside


def config(**sections: Any) -> Config:
    """Sections by name; a key of two levels as train={"optimizer": {"lr": 1.0}}."""
    return Config.model_validate(sections)


def changed(folder: Path, then: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...]:
    """What is said when a run that began with `then` goes on with `now`."""
    (folder / "config.yaml").write_text(dump(config(**then)))
    return check_unchanged(folder / "config.yaml", config(**now))


def refusal(folder: Path, then: dict[str, Any], now: dict[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        changed(folder, then, now)
    return caught.value


def test_nothing_changed_and_nothing_is_said(tmp_path: Path) -> None:
    everything: dict[str, Any] = {
        "run": {"storage": "/a"},
        "data": {"train": [{"path": "/a/x.jsonl", "columns": {"label": "note"}}, "/a/y.jsonl"]},
        "train": {"optimizer": {"lr": 1e-5}, "deepspeed": {"zero": {"x": 1}}, "epochs": 2.5},
        "tracking": {"tags": {"on": "1e-3"}},
    }
    assert changed(tmp_path, everything, everything) == ()


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        ({}, {"run": {"name": "renamed"}}, "run.name run -> renamed"),
        ({"run": {"storage": "/a"}}, {"run": {"storage": "/b"}}, "run.storage /a -> /b"),
        ({"data": {"root": "/a"}}, {"data": {"root": "/b"}}, "data.root /a -> /b"),
        ({"data": {"train": ["/a/x"]}}, {"data": {"train": ["/b/x"]}}, "data.train[0].path /a/x -> /b/x"),
        ({}, {"data": {"max_rejects": 0.5}}, "data.max_rejects 0.01 -> 0.5"),
        ({}, {"cluster": {"max_failures": 9}}, "cluster.max_failures 3 -> 9"),
        ({}, {"train": {"save_every_steps": 7}}, "train.save_every_steps null -> 7"),
        ({}, {"train": {"keep_checkpoints": 7}}, "train.keep_checkpoints 2 -> 7"),
        ({}, {"train": {"gradient_checkpointing": True}}, "train.gradient_checkpointing false -> true"),
        ({}, {"eval": {"every_steps": 7, "at_start": False}}, "eval.at_start true -> false, eval.every_steps null -> 7"),
        ({}, {"eval": {"generation": {"rows": 3}}}, "eval.generation.rows 64 -> 3"),
        ({}, {"tracking": {"experiment": "x"}}, "tracking.experiment medray -> x"),
        ({}, {"train": {"max_steps": 9, "scheduler": {"name": "linear"}}}, "train.max_steps null -> 9"),
    ],
)  # fmt: skip
def test_what_changes_no_numbers_is_taken_and_said(
    tmp_path: Path, then: dict[str, Any], now: dict[str, Any], says: str
) -> None:
    assert (
        changed(tmp_path, then, now)[0] == f"changed since the run began, and used with the new value: {says}"
    )


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"run": {"seed": 1}}, "run.seed 0 -> 1"),
        ({"model": {"preset": "t5-tiny"}}, "model.preset null -> t5-tiny"),
        ({"data": {"train": ["/a", "/b"]}}, "data.train [] -> 2 entries"),
        ({"data": {"shard_rows": 7}}, "data.shard_rows 1024 -> 7"),
        ({"data": {"split": {"seed": 7}}}, "data.split.seed 0 -> 7"),
        ({"method": {"alpha": 0.1}}, "method.alpha 0.5 -> 0.1"),
        ({"peft": {"rank": 7}}, "peft.rank 16 -> 7"),
        ({"train": {"global_batch_size": 7}}, "train.global_batch_size 8 -> 7"),
        ({"train": {"scheduler": {"name": "cosine"}}}, "train.scheduler.name linear -> cosine"),
        ({"train": {"optimizer": {"betas": [0.9, 0.9]}}}, "train.optimizer.betas [0.9, 0.999] -> [0.9, 0.9]"),
        ({"train": {"deepspeed": {"a": {"b": 1}}}}, "train.deepspeed.a.b none -> 1"),
    ],
)
def test_what_decides_the_numbers_is_refused_by_name(tmp_path: Path, now: dict[str, Any], says: str) -> None:
    error = refusal(tmp_path, {}, now)
    assert str(error).split("\n")[0].endswith(f"under another config: {says}")
    assert error.key == says.split()[0]
    assert "--overwrite" in str(error.fix)


def test_a_source_is_its_content_and_not_its_form(tmp_path: Path) -> None:
    then = {"data": {"train": [{"path": "/a/x", "weight": 1.0}]}}
    now = {"data": {"train": [{"path": "/b/x", "weight": 2.0}]}}
    message = str(refusal(tmp_path, then, now))
    assert "data.train[0].weight 1.0 -> 2.0" in message
    assert "/b/x" not in message  # it is free


def test_five_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    now = {
        "data": {"shard_rows": 7, "window_shards": 7, "vocab_size": 777},
        "method": {"alpha": 0.1},
        "peft": {"rank": 7},
        "run": {"seed": 7},
        "train": {"clip_grad_norm": 0.5, "save_every_steps": 7},
    }
    message = str(refusal(tmp_path, {}, now))
    assert message.count(" -> ") == MOST_SHOWN == 5
    assert "(and 2 more)" in message
    assert "save_every_steps" not in message


@pytest.mark.parametrize(
    ("then", "now", "about"),
    [
        ({"max_steps": 5}, {"max_steps": 9}, "the learning rate (train.scheduler.name: linear)"),
        ({}, {"epochs": 2.0}, "the learning rate"),
        ({"max_steps": 5}, {"max_steps": 5, "epochs": 2.0}, None),
        ({"max_steps": 5, "scheduler": {"name": "constant"}}, {"max_steps": 9, "scheduler": {"name": "constant"}}, None),
        ({"max_steps": 5, "scheduler": {"name": "constant", "warmup_ratio": 0.1}},
         {"max_steps": 9, "scheduler": {"name": "constant", "warmup_ratio": 0.1}}, "the learning rate"),
        ({"max_steps": 5, "scheduler": {"name": "constant", "warmup_ratio": 0.1, "warmup_steps": 1}},
         {"max_steps": 9, "scheduler": {"name": "constant", "warmup_ratio": 0.1, "warmup_steps": 1}}, None),
        ({}, {"micro_batch_size": 4}, "numbers agree to rounding"),
        ({"zero_stage": 3}, {"zero_stage": 1}, "numbers agree to rounding"),
    ],
)  # fmt: skip
def test_what_follows_from_a_change_is_said(
    tmp_path: Path, then: dict[str, Any], now: dict[str, Any], about: str | None
) -> None:
    first, *rest = changed(tmp_path, {"train": then}, {"train": now})
    assert first.startswith("changed since the run began, and used with the new value: ")
    assert (len(rest), about is None or about in rest[0]) == (int(about is not None), True)


@pytest.mark.parametrize(
    ("section", "name", "then", "now", "shown"),
    [
        ("tracking", "uri", "postgresql://me:s3cr3t@a/x", "https://me:s3c/r3t@b/x?key=s3cr3t#s3cr3t",
         "postgresql://***@a/x -> https://***@b/x?***"),
        ("tracking", "uri", None, "https://me:s3cr3t@b", "null -> https://***@b"),
        ("tracking", "tags", {"a": "s3cr3t"}, {"a": "s3cr3ts"}, "tracking.tags.a (its values are not shown)"),
        ("data", "prompts", {"label": "Summarize"}, {"label": "s3cr3t"}, "data.prompts.label (its values are not"),
        ("data", "decontaminate", ["s3://k:s3cr3t@b/x"], ["s3://k:s3cr3t@b/y"], '["s3://***@b/x"] -> ["s3://***@b/y"]'),
        ("train", "deepspeed", {"comet": {"api_key": "s3cr3t", "n": 1}}, {"comet": {"api_key": ["s3cr3t"], "n": 2}},
         'train.deepspeed.comet.api_key (text) -> ["(text)"], train.deepspeed.comet.n 1 -> 2'),
    ],
)  # fmt: skip
def test_secrets_and_texts_of_the_user_are_not_shown(
    tmp_path: Path, section: str, name: str, then: Any, now: Any, shown: str
) -> None:
    try:
        message = " ".join(changed(tmp_path, {section: {name: then}}, {section: {name: now}}))
    except InputError as error:
        message = str(error)
    assert shown in message
    assert "s3c" not in message


def test_a_long_value_is_cut_and_what_a_terminal_obeys_is_escaped(tmp_path: Path) -> None:
    (said,) = changed(tmp_path, {}, {"tracking": {"experiment": "\x1b[2J" + "x" * 500}})
    assert "\x1b" not in said
    assert len(said) < 200


def test_a_key_that_is_younger_than_the_run_had_its_default(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    tree = dump(config()).replace("  clip_grad_norm: 1.0\n", "")
    assert "clip_grad_norm" not in tree
    file.write_text(tree)
    assert check_unchanged(file, config()) == ()
    with pytest.raises(InputError, match=r"clip_grad_norm 1\.0 -> 0\.5"):
        check_unchanged(file, config(train={"clip_grad_norm": 0.5}))
    file.write_text(tree + "gone: {key: 3}\n")
    with pytest.raises(InputError, match=r"gone\.key 3 -> none"):
        check_unchanged(file, config())


@pytest.mark.parametrize("text", ["", "[]", "a: b: c", "\x00", "run: {name: x"])
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match="cannot be read") as caught:
        check_unchanged(tmp_path / "config.yaml", config())
    assert caught.value.file == tmp_path / "config.yaml"


def test_epochs_beside_max_steps_do_not_lengthen_a_run_that_is_done(tmp_path: Path) -> None:
    base: dict[str, Any] = {"run": {"storage": str(tmp_path), "name": "r"}}
    folder = made(tmp_path, "r")
    (folder / "summary.json").write_text('{"status": "done", "eval": {}, "steps": 5}')
    (folder / "config.yaml").write_text(dump(config(**base, train={"max_steps": 5})))
    (folder / "export").mkdir()
    (folder / "export" / "config.json").touch()
    (folder / "export" / "model.safetensors").touch()
    assert finished_result(config(**base, train={"max_steps": 5, "epochs": 3.0}))
    assert finished_result(config(**base, train={"max_steps": 6})) is None
    assert finished_result(config(**base)) is None


def test_a_run_whose_export_is_gone_is_not_done(tmp_path: Path) -> None:
    folder, same = made(tmp_path, "r"), config(run={"storage": str(tmp_path), "name": "r"})
    (folder / "summary.json").write_text('{"status": "done", "eval": {}, "steps": 5}')
    (folder / "config.yaml").write_text(dump(same))
    (folder / "export").mkdir()
    assert finished_result(same) is None
    for weights in (
        ["adapter_config.json", "adapter_model.safetensors"],
        ["config.json", "model.safetensors"],
        ["config.json", "model.safetensors.index.json", "a.safetensors", "b.safetensors"],
        ["base/config.json", "base/model.safetensors", "adapter_config.json", "adapter_model.safetensors"],
    ):
        shutil.rmtree(folder / "export")
        for name in weights:
            assert finished_result(same) is None, name
            (folder / "export" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "export" / name).write_text(
                '{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}'
            )
        assert finished_result(same) is not None
        (folder / "export" / weights[1]).unlink()
        assert finished_result(same) is None


def test_a_folder_under_the_name_of_a_file_is_named_though_the_run_is_done(tmp_path: Path) -> None:
    folder, same = made(tmp_path, "r"), config(run={"storage": str(tmp_path), "name": "r"})
    (folder / "summary.json").write_text('{"status": "done", "eval": {}, "steps": 5}')
    (folder / "steps.jsonl").mkdir()
    with pytest.raises(InputError, match=r"steps\.jsonl.*not a regular file"):
        finished_result(same)


def made(storage: Path, name: str) -> Path:
    """The folder of a run that has come to its config."""
    (storage / name).mkdir(parents=True)
    (storage / name / "config.yaml").write_text(dump(config()))
    return storage / name


def named(storage: Path, name: str = "r") -> Config:
    return config(run={"storage": str(storage), "name": name})


def test_a_run_is_put_aside_whole_under_the_first_free_name(tmp_path: Path) -> None:
    folder = made(tmp_path, "r")
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (tmp_path / "tokens" / "x").mkdir(parents=True)
    (tmp_path / "r.old-1").mkdir()  # an empty folder would be replaced by a rename
    (tmp_path / "r.old-2").symlink_to(tmp_path / "nowhere")
    assert move_aside(named(tmp_path)) == tmp_path / "r.old-3"
    assert sorted(path.name for path in (tmp_path / "r.old-3").iterdir()) == ["checkpoints", "config.yaml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.old-1", "r.old-2", "r.old-3", "tokens"]
    made(tmp_path, "r")
    assert move_aside(named(tmp_path)) == tmp_path / "r.old-4"


def test_where_there_is_no_run_nothing_is_made(tmp_path: Path) -> None:
    assert move_aside(named(tmp_path / "storage")) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".lock").touch()  # of one that was killed at once
    assert move_aside(named(tmp_path)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_run_that_goes_on_is_not_moved(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    folder = made(tmp_path, "r")
    with lock.held(folder), ThreadPoolExecutor(1) as other:
        with pytest.raises(InputError, match="in use by another start"):
            other.submit(move_aside, named(tmp_path)).result()
        assert (folder / "config.yaml").exists()


def test_a_folder_of_something_else_is_not_moved(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "records.jsonl").touch()
    with pytest.raises(InputError, match="none of them is a run's"):
        move_aside(named(tmp_path))
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["records.jsonl"]


def test_the_new_run_has_an_mlflow_run_of_its_own(tmp_path: Path) -> None:
    def tracked() -> str:
        spec = TrackingSpec(True, f"sqlite:///{tmp_path / 'mlflow.db'}", "e", "r", {}, {"a": "1"}, False)
        ledger = Ledger(str(tmp_path / "r"), spec)
        ledger.open(resumed_step=0)
        ledger.step({"step": 1, "loss": 1.0})
        until(
            lambda: ledger.mlflow_run_id() is not None, "MLflow"
        )  # a busy machine makes the database slowly
        ledger.close({"status": "done", "steps": 1}, [])
        return str(json.loads((tmp_path / "r" / "mlflow_run.json").read_text())["run_id"])

    made(tmp_path, "r")
    first, again = tracked(), tracked()
    assert first == again
    aside = move_aside(named(tmp_path))
    assert aside
    second = tracked()
    assert second != first
    assert json.loads((aside / "mlflow_run.json").read_text())["run_id"] == first
