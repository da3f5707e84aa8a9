"""What MLflow is told of a run besides its numbers: params, version, git commit, data set; and one value for each metric."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import medray
from medray.config import read
from medray.tracking.mlflow_run import DatasetOfSplit
from medray.train.driver.tracking import git_commit, tracking_spec
from medray.train.export.evaluation import at_exported_step

CONFIG = """
run: {storage: runs, name: mine}
model: {name: smollm2-135m-instruct}
data: {train: [notes/train.jsonl], validation: [notes/held_out.jsonl], prompts: {system: ""}}
tracking: {tags: {site: a}}
"""


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_params_are_plain_values_that_a_search_finds(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    params = tracking_spec(read(tmp_path / "run.yaml")).params
    assert params["model.name"] == "smollm2-135m-instruct"
    assert params["data.prompts.system"] == ""
    assert (params["train.optimizer.lr"], params["eval.at_start"], params["model.preset"]) == (
        "5e-05",
        "true",
        "null",
    )
    assert json.loads(params["eval.metrics"]) == ["rouge"]
    assert not [key for key, value in params.items() if value.startswith('"')]


def test_tags_name_version_and_commit_and_the_dataset_the_fingerprint(tmp_path: Path) -> None:
    file, folder = tmp_path / "run.yaml", tmp_path / "runs" / "mine"
    file.write_text(CONFIG)
    config = read(file)
    before = tracking_spec(config, file)
    assert before.tags == {"medray.version": medray.__version__, "site": "a"}  # no checkout, and not begun
    assert before.datasets == ()

    git(tmp_path, "init", "-q")
    assert git_commit(tmp_path) is None  # no commit yet
    git(tmp_path, "add", "run.yaml")
    git(tmp_path, "commit", "-qm", "a")
    folder.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps({"tokens": f"{tmp_path}/runs/tokens/0a1b2c/train"}))
    spec = tracking_spec(config, file)
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert spec.tags["medray.git_commit"] == spec.tags["mlflow.source.git.commit"] == commit
    assert spec.datasets == (DatasetOfSplit("train.jsonl", "0a1b2c", "training"),)
    (tmp_path / "runs" / "tokens" / "0a1b2c" / "validation").mkdir(parents=True)
    named = [(each.name, each.digest, each.context) for each in tracking_spec(config, file).datasets]
    assert named[1] == ("held_out.jsonl", "0a1b2c", "validation")
    assert len(named) == 2


def test_a_commit_that_cannot_be_read_is_no_failure(tmp_path: Path) -> None:
    assert git_commit(tmp_path / "nowhere") is None
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    assert git_commit(tmp_path) is None


def test_a_metric_of_the_exported_step_has_one_value() -> None:
    """With train.keep_best the text metrics of that step were logged during training."""
    best = {"loss": 0.5, "loss_label": 0.4, "rougeL": 30.0}
    assert at_exported_step(best, {"rougeL": 30.5, "accuracy": 0.1}) == {**best, "accuracy": 0.1}
    assert list(at_exported_step({"loss": 0.5}, {"rougeL": 30.5}).items()) == [
        ("loss", 0.5),
        ("rougeL", 30.5),
    ]
