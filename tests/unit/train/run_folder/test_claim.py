"""A run folder that a config takes: what it was told under another config, before its first checkpoint, is not mixed in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.config import Config
from medray.errors import InputError
from medray.tracking import Ledger
from medray.tracking.mlflow_run import open_client
from medray.train import checkpoint
from medray.train.driver.tracking import tracking_spec
from medray.train.loop.step import Progress
from medray.train.run_folder.claim import claim

TOKENS = "/runs/tokens/abc/train"


def config(storage: Path, **train: Any) -> Config:
    return Config.model_validate({"run": {"storage": str(storage), "name": "r"}, "train": train})


def train(made: Config, steps: int, end: str | None, *, tokens: str = TOKENS, before: str = "rougeL") -> str:
    """The MLflow run of a start that has no checkpoint and, with end: None, is killed when MLflow has its steps.

    before: the metric that is evaluated before the first step.
    """
    claim(made, tokens, "fp32", 1, lambda note: None)
    ledger = Ledger(str(Path(made.run.storage) / "r"), tracking_spec(made))
    ledger.open(resumed_step=0)
    ledger.evaluation({"step": 0, "metrics": {before: 1.0}})
    for step in range(1, steps + 1):
        ledger.step({"step": step, "loss": made.train.optimizer.lr * step})
    ledger.close({"status": end, "steps": steps}, [])
    run_id = ledger.mlflow_run_id()
    assert run_id is not None
    if end is None:
        open_client(tracking_spec(made).uri).update_run(run_id, status="RUNNING")
    return run_id


def losses(made: Config, run_id: str) -> dict[int, float]:
    history = open_client(tracking_spec(made).uri).get_metric_history(run_id, "train/loss")
    assert len({point.step for point in history}) == len(history)
    return {point.step: point.value for point in history}


def test_a_run_that_died_before_its_first_checkpoint_begins_anew_under_another_config(tmp_path: Path) -> None:
    diverged, mended = config(tmp_path, optimizer={"lr": 1.0}), config(tmp_path, optimizer={"lr": 0.25})
    old = train(diverged, 3, None)
    new = train(mended, 5, "done", before="f1")
    assert new != old
    client = open_client(tracking_spec(mended).uri)
    assert losses(mended, old) == {1: 1.0, 2: 2.0, 3: 3.0}
    assert losses(mended, new) == {1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0, 5: 1.25}
    assert client.get_run(new).data.params["train.optimizer.lr"] == "0.25"
    assert [client.get_run(each).info.status for each in (old, new)] == ["KILLED", "FINISHED"]
    assert "eval/rougeL" not in client.get_run(new).data.metrics
    assert json.loads((tmp_path / "r" / "evals.jsonl").read_text()) == {"step": 0, "metrics": {"f1": 1.0}}


def test_the_same_config_goes_on_in_one_mlflow_run_and_other_data_do_not(tmp_path: Path) -> None:
    made = config(tmp_path, optimizer={"lr": 1.0})
    first = train(made, 3, "failed")
    assert train(made, 5, "failed") == first
    assert losses(made, first) == {step: float(step) for step in range(1, 6)}
    other = train(made, 5, "failed", tokens="/runs/tokens/def/train")
    assert other != first
    assert open_client(tracking_spec(made).uri).get_run(first).info.status == "FAILED"  # it had ended


def test_what_a_checkpoint_was_made_under_stays(tmp_path: Path) -> None:
    claim(config(tmp_path), TOKENS, "fp32", 1, lambda note: None)
    folder = checkpoint.folder_of(tmp_path / "r" / "checkpoints", 5, 1)
    folder.mkdir(parents=True)
    checkpoint.write_manifest(folder, Progress(5), 5.0, {}, [])
    (tmp_path / "r" / "steps.jsonl").write_text('{"step": 1}\n')
    before = (tmp_path / "r" / "config.yaml").read_text()
    for refused in (
        (config(tmp_path, clip_grad_norm=0.5), TOKENS, "fp32"),
        (config(tmp_path), "/runs/tokens/def/train", "fp32"),
        (config(tmp_path), TOKENS, "bf16"),
    ):
        with pytest.raises(InputError):
            claim(*refused, 1, lambda note: None)
    assert (tmp_path / "r" / "config.yaml").read_text() == before
    said: list[str] = []
    claim(config(tmp_path, keep_checkpoints=7), TOKENS, "fp32", 1, said.append)
    assert said == ["changed since the run began, and used with the new value: train.keep_checkpoints 2 -> 7"]
    assert (tmp_path / "r" / "steps.jsonl").exists()


def test_a_resumed_run_keeps_the_threads_that_it_began_with(tmp_path: Path) -> None:
    """On a machine that has more or fewer CPUs by then: other threads would round otherwise."""

    def begin(threads: int, **cluster: Any) -> tuple[int, list[str]]:
        sections = {"run": {"storage": str(tmp_path), "name": "r"}, "cluster": cluster}
        said: list[str] = []
        return claim(Config.model_validate(sections), TOKENS, "fp32", threads, said.append), said

    assert begin(2) == (2, [])
    assert begin(4) == (4, [])  # there is no checkpoint yet
    checkpoint_of_step(tmp_path, 4)
    kept, said = begin(8)
    assert kept == 4
    assert "keeps the 4 compute threads that the run began with, and could have 8 here" in said[0]
    assert begin(2)[0] == 4
    assert begin(3, threads_per_worker=3)[0] == 3  # as the user says
    assert begin(5, threads_per_worker=3)[0] == 3
    assert begin(1, workers=2)[0] == 1  # other workers
    assert begin(6, workers=2)[0] == 1
    (tmp_path / "r" / "data.json").write_text(
        json.dumps({"tokens": TOKENS, "precision": "fp32", "threads": "-2"})
    )
    assert begin(6, workers=2)[0] == 6  # no number of threads


def test_an_adalora_run_does_not_become_shorter(tmp_path: Path) -> None:
    def adalora(steps: int) -> Config:
        sections = {"peft": {"type": "adalora"}, "train": {"max_steps": steps, "zero_stage": 0}}
        return Config.model_validate({"run": {"storage": str(tmp_path), "name": "r"}} | sections)

    claim(adalora(100), TOKENS, "fp32", 1, lambda note: None)
    checkpoint_of_step(tmp_path, 30)
    claim(adalora(120), TOKENS, "fp32", 1, lambda note: None)
    with pytest.raises(InputError, match="AdaLoRA shrinks the ranks of the run r") as caught:
        claim(adalora(60), TOKENS, "fp32", 1, lambda note: None)
    assert (caught.value.key, caught.value.value) == ("train.max_steps", 60)


def checkpoint_of_step(storage: Path, step: int) -> Path:
    folder = Path(str(checkpoint.folder_of(storage / "r" / "checkpoints", step, 1)))
    folder.mkdir(parents=True)
    (folder / "rank-00000.safetensors").write_bytes(b"12345")
    record = {"file": "rank-00000.safetensors", "bytes": 5, "sha256": ""}
    checkpoint.write_manifest(folder, Progress(step), step, {}, [record])
    return folder


def test_checkpoints_without_the_config_that_they_were_made_under_are_not_gone_on_from(
    tmp_path: Path,
) -> None:
    made = config(tmp_path)
    claim(made, TOKENS, "fp32", 1, lambda note: None)
    checkpoint_of_step(tmp_path, 4)
    claim(made, TOKENS, "fp32", 1, lambda note: None)
    (tmp_path / "r" / "config.yaml").unlink()
    with pytest.raises(InputError, match="the config that it began with is gone"):
        claim(made, TOKENS, "fp32", 1, lambda note: None)
    assert not (tmp_path / "r" / "config.yaml").exists()


def test_records_of_steps_whose_checkpoints_are_all_damaged_are_kept_beside(tmp_path: Path) -> None:
    made, told = config(tmp_path), list[str]()
    claim(made, TOKENS, "fp32", 1, told.append)
    folder = checkpoint_of_step(tmp_path, 4)
    (tmp_path / "r" / "steps.jsonl").write_text('{"step": 4}\n')
    claim(made, TOKENS, "fp32", 1, told.append)
    assert told == []
    (folder / "rank-00000.safetensors").write_bytes(b"123")
    claim(made, TOKENS, "fp32", 1, told.append)
    assert told == [
        "none of the run's checkpoints is whole: it begins at step 0",
        "steps.jsonl is kept as steps.jsonl.old",
    ]
    assert (tmp_path / "r" / "steps.jsonl.old").read_text() == '{"step": 4}\n'
    assert not (tmp_path / "r" / "steps.jsonl").exists()
