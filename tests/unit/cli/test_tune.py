"""The verb `medray tune` before and after Ray: what it refuses, and what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medray.cli.main import main
from medray.config import read
from medray.train.run_folder.files import folder_of
from medray.tune import claim, results
from medray.tune.share import Share
from medray.tune.trials import Trial, TrialFiles

SHARE = Share(concurrent=1, workers=1, cpus=1.0, gpus=0, threads=1)


def written(folder: Path, tune: Any = None) -> Path:
    tree = {
        "run": {"storage": "runs", "name": "s"},
        "model": {"preset": "llama-tiny", "init": "random"},
        "data": {"dataset": "clinic", "tokenizer": "train"},
        "peft": {"type": "lora"},
        "tune": tune or {"space": {"peft.rank": {"grid": [4, 8, 16]}}},
    }
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.mark.parametrize(
    ("verb", "override", "words"),
    [
        ("train", "run.name=x", "medray tune"),
        ("tune", "tune=null", "medray train"),
        ("tune", "tune.metric=wer", "use one of loss"),
        ("tune", "tune.space={peft.rnk: {choice: [4]}}", "did you mean peft.rank"),
    ],
)
def test_a_wrong_search_ends_with_2_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, override: str, words: str
) -> None:
    assert main([verb, str(written(tmp_path)), override]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def finish(file: Path, values: list[float | None]) -> None:
    """Write what a finished search leaves."""
    config = read(file)
    claim.claim(config, lambda note: None)
    claim.write_notes(folder_of(config), SHARE, 3.0)
    files = TrialFiles(folder_of(config))
    for number, value in enumerate(values, 1):
        state: Any = "done" if value is not None else "failed"
        point = {"peft.rank": 2 ** (number + 1)}
        files.write(
            Trial(number=number, configuration=number, seed=0, values=point, state=state, value=value)
        )
    results.summarize(config, files.read(), status="done", seconds=3.0, gpu_hours=0.0, ended_by=None)


def test_a_finished_search_is_shown_and_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path)
    finish(file, [0.75, None, 0.75])
    assert main(["tune", str(file), "--json"]) == 0
    shown = capsys.readouterr()
    for words in ("finished before", "peft.rank 4", "2 done, 1 failed", "exactly as good", "best.yaml"):
        assert words in shown.err, words
    assert json.loads(shown.out)["search"]["best"]["ties"] == [3]
    # A change of what trials compute is refused, before any cluster is started.
    assert main(["tune", str(file), "train.max_steps=7"]) == 2
    assert "train.max_steps" in capsys.readouterr().err


def test_a_search_is_moved_aside_with_its_trials(tmp_path: Path) -> None:
    from medray.tune.earlier import finished, move_aside

    file = written(tmp_path)
    finish(file, [0.5, 0.25, 0.75])
    for name in ("s.trial-0001", "s.trial-0002", "s.trial-0001x", "s2.trial-0001"):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "config.yaml").touch()
    config = read(file)
    assert finished(config) is not None
    assert move_aside(config) == tmp_path / "runs" / "s.old-1"
    assert finished(config) is None
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        *("s.old-1", "s.trial-0001.old-1", "s.trial-0001x", "s.trial-0002.old-1", "s2.trial-0001"),
    ]
    assert move_aside(config) is None


def test_the_status_of_a_search_lists_its_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path)
    finish(file, [0.5, 0.25])
    folder = tmp_path / "runs" / "s"
    TrialFiles(folder).write(Trial(number=3, configuration=3, seed=0, values={"peft.rank": 16}))
    run = tmp_path / "runs" / "s.trial-0003"
    run.mkdir()
    (run / "steps.jsonl").write_text('{"step": 7, "loss": 0.5}\n')
    assert main(["status", str(folder)]) == 0
    shown = capsys.readouterr().out
    for words in ("1 running or waiting, 2 done", "trial 2, loss 0.25: peft.rank 8", "step 7: peft.rank 16"):
        assert words in shown, words
    assert main(["status", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["best"], [trial["state"] for trial in found["trials"]]) == (2, ["done", "done", "begun"])
