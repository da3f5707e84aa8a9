"""A search is launched like a run: checked here, with nodes for its concurrent trials, and requeued while it saves steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from medray.cli.main import main
from medray.cli.progress import saved
from medray.config import Config, read
from medray.launch.shape import shape
from medray.tune.trials import Trial, TrialFiles

TREE = {
    "run": {"storage": "/medray/runs", "name": "s"},
    "model": {"preset": "llama-tiny", "init": "random"},
    "data": {"dataset": "clinic", "tokenizer": "train"},
    "launch": {"k8s": {"image": "r/i:1", "volume_claim": "c"}},
    "tracking": {"enabled": False},
    "tune": {"space": {"train.optimizer.lr": {"choice": [1e-4, 1e-3]}}, "concurrent": 3},
}


def written(folder: Path) -> Path:
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump(TREE))
    return file


def test_a_search_is_launched_with_its_own_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(written(tmp_path))
    assert main(["launch", "k8s", config, "--verb", "tune", "--dry-run"]) == 0
    (line,) = re.findall("entrypoint: (.*)", capsys.readouterr().out)
    assert line.startswith("sh /etc/medray/run.sh medray tune /etc/medray/config.yaml cluster.nodes=1")
    assert main(["launch", "k8s", config, "--dry-run"]) == 2
    assert "medray tune" in capsys.readouterr().err
    assert main(["launch", "k8s", config, "tune.metric=wer", "--verb", "tune", "--dry-run"]) == 2
    assert "tune.metric" in capsys.readouterr().err


def test_paths_that_only_trials_read_are_checked_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = "tune.space={model.name: {choice: [/home/me/model, org/model]}}"
    config = [str(written(tmp_path)), "model={init: pretrained}", "data.tokenizer=model", space]
    assert main(["launch", "k8s", *config, "--verb", "tune", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "tune.space.model.name" in said
    assert "/home/me/model" in said


def test_nodes_hold_the_trials_that_run_at_the_same_time(tmp_path: Path) -> None:
    config = read(written(tmp_path), ["cluster.workers=2"])
    assert shape(config).cpus == 7
    assert shape(config.override({"tune.concurrent": None})).cpus == 3
    gpus = config.override({"cluster.gpus_per_node": 4, "tune.concurrent": 4})
    assert (shape(gpus).nodes, shape(gpus).workers) == (2, 4)


def test_the_progress_of_a_search_grows_with_every_saved_step_and_ended_trial(tmp_path: Path) -> None:
    config = Config.model_validate(TREE | {"run": {"storage": str(tmp_path), "name": "s"}})
    files = TrialFiles(tmp_path / "s")
    seen = [saved(config)]
    trial = Trial(number=1, configuration=1, seed=0, values={})
    files.write(trial)
    checkpoint = tmp_path / "s.trial-0001" / "checkpoints" / "step-00000005-0a"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    seen.append(saved(config))
    files.write(trial.model_copy(update={"state": "done", "step": 8, "steps": 8, "kept": False}))
    seen.append(saved(config))
    files.write(Trial(number=2, configuration=2, seed=0, values={}))
    seen.append(saved(config))
    assert seen == [0, 5, 9, 9]
