"""A worker loop that is stopped, killed or hangs, and what its next start makes up for."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import recorder
import tiny
from recorder import Recorder

from medray import storage
from medray.data.shards.token_split import TokenSet
from medray.errors import RunFailedError
from medray.train import checkpoint
from medray.train.checkpoint.writer import CheckpointWriter
from medray.train.loop import training
from medray.train.loop.finish import WorkerResult
from medray.train.loop.step import Progress
from medray.train.run_folder import results
from medray.train.run_folder.files import ATTEMPTS
from medray.train.worker_plan import WorkerPlan

STEPS = 8


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return tiny.token_set(tmp_path_factory.mktemp("tokens"), tiny.rows(23), architecture="causal")


def plan(folder: Path, name: str, tokens: TokenSet, **train: Any) -> WorkerPlan:
    made = tiny.plan(
        folder / name,
        tokens,
        "llama-tiny",
        workers=1,
        micro=2,
        max_steps=STEPS,
        train={"zero_stage": 0, "save_every_steps": 3, "keep_checkpoints": 9, **train},
        eval={"every_steps": 4, "metrics": [], "at_start": False},
    )
    return replace(made, validation=tokens)


def told(by: Recorder) -> list[str]:
    return [event["text"] for event in by.events if event["kind"] == "message"]


def test_an_evaluation_that_a_stop_came_before_is_made_by_the_next_start(
    tmp_path: Path, tokens: TokenSet
) -> None:
    calm, first, second = Recorder(), Recorder(stop_after=4), Recorder(saves_every=3)
    training.run(plan(tmp_path, "calm", tokens), calm)
    cut = plan(tmp_path, "cut", tokens)
    training.run(cut, first)
    training.run(cut, second)
    assert [one["step"] for one in first.evaluations] == []
    assert second.resumed == [4]
    assert second.evaluations == calm.evaluations
    assert [one["step"] for one in calm.evaluations] == [4, STEPS]
    rated = [
        one.progress.step for one in checkpoint.complete(Path(cut.run_folder) / "checkpoints") if one.metrics
    ]
    assert 4 in rated, "retention by metric knows it too"


def test_an_evaluation_that_was_made_is_not_made_again(tmp_path: Path, tokens: TokenSet) -> None:
    first, second = Recorder(stop_after=5), Recorder()
    cut = plan(tmp_path, "cut", tokens, save_every_steps=100)
    training.run(cut, first)
    (newest,) = [one for one in (Path(cut.run_folder) / "checkpoints").iterdir() if "-00000005-" in one.name]
    storage.remove_tree(newest)
    training.run(cut, second)
    assert second.resumed == [4]
    assert [one["step"] for one in second.evaluations] == [STEPS]


@pytest.mark.parametrize(
    ("asked", "every", "needed"),
    [({"gone_after": 4}, 3, 4), ({"stop_after": 4}, 3, 4), ({}, STEPS - 1, STEPS)],
    ids=["notice", "stop", "end"],
)
def test_a_checkpoint_that_is_needed_waits_for_the_one_that_is_being_written(
    asked: dict[str, int],
    every: int,
    needed: int,
    tmp_path: Path,
    tokens: TokenSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one before is held in its flush until the loop waits for it, or leaves the needed one out."""
    go = threading.Event()

    class Held(Recorder):
        def flush(self) -> None:
            assert go.wait(60)

        def event(self, record: dict[str, Any]) -> None:
            super().event(record)
            if "left out" in record.get("text", ""):
                go.set()

    class Joins(CheckpointWriter):
        def _join(self) -> None:
            go.set()
            super()._join()

    monkeypatch.setattr(training, "CheckpointWriter", Joins)
    made = tiny.plan(
        tmp_path / "held",
        tokens,
        "llama-tiny",
        workers=1,
        micro=2,
        max_steps=STEPS,
        train={"zero_stage": 0, "save_every_steps": every, "keep_checkpoints": 9},
    )
    held = Held(**asked)
    training.run(made, held)
    found = checkpoint.complete(Path(made.run_folder) / "checkpoints")
    assert [one.progress.step for one in found][:2] == [every, needed]
    assert told(held) == [text for text in told(held) if "left out" not in text]


def test_checkpoints_that_cannot_be_read_for_a_while_are_waited_for(
    tmp_path: Path, tokens: TokenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tmp_path, "away", tokens)
    training.run(made, Recorder(stop_after=5))
    away, read = iter(range(2)), checkpoint.read

    def reads(folder: Path) -> Any:
        if next(away, None) is not None:
            raise OSError(errno.EIO, "Input/output error")
        return read(folder)

    monkeypatch.setattr(checkpoint, "read", reads)
    patient = Recorder()
    training.run(made, patient)
    assert patient.resumed == [5]
    assert told(patient) == ["worker 0: a checkpoint cannot be read, retrying: Input/output error"]


def test_a_note_of_a_start_that_cannot_be_written_ends_nothing(tmp_path: Path, tokens: TokenSet) -> None:
    made = plan(tmp_path, "noteless", tokens)
    (Path(made.run_folder) / ATTEMPTS).mkdir(parents=True)
    assert training.run(made, Recorder()).status == "done"


def test_the_summary_is_the_last_file_of_a_run(
    tmp_path: Path, tokens: TokenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it a run is done, and no other start would write what is missing."""
    made = plan(tmp_path, "summed", tokens)
    folder = Path(made.run_folder)
    finished = Recorder()
    done = training.run(made, finished)
    folder.joinpath("steps.jsonl").write_text("".join(json.dumps(one) + "\n" for one in finished.steps))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "write_report", full)
    seconds = {"train": 1.0}
    with pytest.raises(OSError, match="No space"):
        results.write_results(made, done, {}, [], seconds, 2.0, {})
    assert not (folder / "summary.json").exists()


@pytest.mark.parametrize(
    ("samples", "loss_tokens", "lines"), [(0, 0, 0), (0, 90, 3), (24, 0, 3), (24, 90, 0), (24, 90, 3)]
)
def test_a_run_that_trained_nothing_fails(
    samples: int, loss_tokens: int, lines: int, tmp_path: Path, tokens: TokenSet
) -> None:
    """Whatever says so: no row, no token with loss, or no step in the log. Such a run has no summary of a done one."""
    made, progress = plan(tmp_path, "empty", tokens), Progress(3, samples, 100, loss_tokens)
    folder = Path(made.run_folder)
    record = {"loss": 0.0, "tokens": 33, "computed_tokens": 40, "seconds": 0.1}
    folder.joinpath("steps.jsonl").write_text(
        "".join(json.dumps(record | {"step": step + 1}) + "\n" for step in range(lines))
    )
    done = WorkerResult("done", progress, 3, {})
    if samples and loss_tokens and lines:
        results.write_results(made, done, {}, [], {}, 2.0, {})
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["status"], summary["samples"], summary["loss_tokens"]) == ("done", 24, 90)
        return
    with pytest.raises(RunFailedError, match=f"nothing was trained: {samples} samples, {loss_tokens} tokens"):
        results.write_results(made, done, {}, [], {}, 2.0, {})
    assert not (folder / "summary.json").exists()


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from recorder import Recorder
from medray.train.loop import training

class Kills(Recorder):
    def event(self, record):
        if record["kind"] == "checkpoint" and record["step"] == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        super().event(record)

class Hangs(Recorder):
    def step(self, record):
        super().step(record)
        if record["step"] == 2:
            signal.pause()

training.run(pickle.loads(Path(sys.argv[1]).read_bytes()), {"kills": Kills, "hangs": Hangs}[sys.argv[2]](saves_every=3))
"""


def in_a_process_of_its_own(made: WorkerPlan, what: str) -> subprocess.CompletedProcess[str]:
    work = Path(made.run_folder) / "plan.pickle"
    work.parent.mkdir(parents=True, exist_ok=True)
    work.write_bytes(pickle.dumps(made))
    support = Path(recorder.__file__).parent
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(work), what],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(support.parents[1]), str(support)])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.long
def test_a_checkpoint_that_was_announced_is_there_after_a_kill_at_that_moment(
    tmp_path: Path, tokens: TokenSet
) -> None:
    made = plan(tmp_path, "killed", tokens)
    assert in_a_process_of_its_own(made, "kills").returncode == -signal.SIGKILL
    next_start = Recorder()
    training.run(made, next_start)
    assert next_start.resumed == [6]
    assert [one["step"] for one in next_start.steps] == [7, 8]


def test_a_step_that_hangs_ends_its_process_and_says_where(tmp_path: Path, tokens: TokenSet) -> None:
    made = plan(tmp_path, "hung", tokens)
    cluster = made.config.cluster.model_copy(update={"hang_seconds": 15})
    hung = in_a_process_of_its_own(
        replace(made, config=made.config.model_copy(update={"cluster": cluster})), "hangs"
    )
    assert hung.returncode == 1
    assert "Timeout" in hung.stderr
    assert "in step" in hung.stderr
