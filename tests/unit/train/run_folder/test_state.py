"""`medray status`, `logs` and `stop`, from a run's folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.cli import logs
from medray.cli.main import main
from medray.train import stop
from medray.train.run_folder import lock
from medray.train.run_folder.state import read


def run_folder(folder: Path, steps: int, **summary: Any) -> Path:
    (folder / "config.yaml").write_text("run: {}\n")
    (folder / "data.json").write_text(json.dumps({"steps": 40}))
    lines = [{"step": step, "loss": 1 / step, "seconds": 0.5} for step in range(1, steps + 1)]
    (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "evals.jsonl").write_text(json.dumps({"step": 10, "metrics": {"loss": 0.5}}) + "\n")
    (folder / "console.log").write_text("[ 1 s] start\n[ 2 s] step 10/40\n")
    if summary:
        (folder / "summary.json").write_text(json.dumps({"steps": steps, "eval": {}, **summary}))
    return folder


def test_a_running_run_reports_its_progress(tmp_path: Path) -> None:
    run_folder(tmp_path, steps=10)
    with lock.held(tmp_path):
        state = read(tmp_path)
    assert (state.state, state.step, state.steps, state.seconds_left) == ("running", 10, 40, 15.0)
    assert "pid" in str(state.holder)
    assert state.evaluation == {"step": 10, "metrics": {"loss": 0.5}}
    assert read(tmp_path).state == "not running", "its driver was killed"


@pytest.mark.parametrize(
    ("summary", "state"),
    [
        ({"status": "done"}, "done"),
        ({"status": "stopped"}, "stopped"),
        ({"status": "failed", "reason": "a worker died"}, "failed"),
        ({"status": "stopped", "later_steps": 6}, "not running"),  # a later start resumed, and was killed
    ],
)
def test_the_state_of_a_run_that_has_ended(summary: dict[str, Any], state: str, tmp_path: Path) -> None:
    later = summary.pop("later_steps", 0)
    run_folder(tmp_path, steps=10 - later, **summary)
    found = read(run_folder(tmp_path, steps=10))
    assert (found.state, found.reason) == (state, summary.get("reason"))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, steps=10)
    assert main(["status", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 10
    assert main(["status", str(folder)]) == 0
    assert "10 of 40, loss 0.1" in capsys.readouterr().out
    assert main(["logs", str(folder), "--lines", "1", "--follow"]) == 0, (
        "--follow must not wait for a run that has ended"
    )
    assert capsys.readouterr().out == "[ 2 s] step 10/40\n"
    assert main(["stop", str(folder)]) == 0
    assert "the run is not running now" in capsys.readouterr().err
    assert stop.asked_at(folder) is not None
    rows = {row[0]: row[1] for row in read(folder).rows()}
    assert "requested" in rows["stop"]


def test_a_finished_run_cannot_be_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, steps=10, status="done")
    assert main(["stop", str(folder)]) == 0
    assert not (folder / "stop").exists()
    assert "nothing to stop" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["status", "logs", "stop"])
def test_no_such_run(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, str(tmp_path / "none")]) == 2
    assert "there is no run in this folder" in capsys.readouterr().err


def test_a_planned_run_can_be_stopped_by_its_config(tmp_path: Path) -> None:
    """Stop a run whose job still waits in a queue."""
    (tmp_path / "mine.yaml").write_text("run: {name: mine}\n")
    assert main(["stop", str(tmp_path / "mine.yaml")]) == 0
    assert stop.begin(tmp_path / "runs" / "mine", launched_at=0)
    assert main(["stop", str(tmp_path / "mine.yaml"), "run.name=other"]) == 0
    assert stop.begin(tmp_path / "runs" / "other", launched_at=0)


@pytest.mark.parametrize("verb", ["status", "logs", "stop"])
def test_a_folder_that_holds_no_run_is_not_changed(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Use the storage folder of all runs, which is an easy mistake."""
    run_folder(mkdir(tmp_path / "a"), steps=1)
    assert main([verb, str(tmp_path)]) == 2
    assert "not the folder of a run" in capsys.readouterr().err
    assert not (tmp_path / "stop").exists()


def test_the_output_has_no_control_characters_no_nan_and_no_credentials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path, steps=10)
    (tmp_path / "console.log").write_text("line\n\x1b]0;title\x07\n")
    (tmp_path / "evals.jsonl").write_text('{"step": 10, "metrics": {"loss": NaN}}\n')
    assert main(["status", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["step"] == 10
    assert main(["status", "s3://user:PASSWORD@bucket/x"]) == 2
    assert "PASSWORD" not in capsys.readouterr().err
    assert main(["status", str(tmp_path), "run.name=x"]) == 2


def test_a_folder_without_read_permission_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    run_folder(tmp_path, steps=1)
    monkeypatch.setattr("medray.train.run_folder.state.read", refused)
    assert main(["status", str(tmp_path)]) == 2


def mkdir(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("shown", "lines", "known"),
    [
        ([], ["a"], 0),
        (["a"], ["a", "b"], 1),
        (["a", "b"], ["b", "c"], 1),  # the oldest line was rotated out
        (["a"], ["x", "y"], 0),  # all known lines were
    ],
)
def test_no_line_is_shown_twice(shown: list[str], lines: list[str], known: int) -> None:
    assert logs._shared(shown, lines) == known
