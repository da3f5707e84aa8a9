"""What a start of the worker loop makes up for: an evaluation that a stop came before, storage that is away for a while."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from recorder import Recorder

from medray import storage
from medray.data.tokens import TokenSet
from medray.train import checkpoint, loop, outcome
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


def told(recorder: Recorder) -> list[str]:
    return [event["text"] for event in recorder.events if event["kind"] == "message"]


def test_an_evaluation_that_a_stop_came_before_is_made_by_the_next_start(
    tmp_path: Path, tokens: TokenSet
) -> None:
    calm, first, second = Recorder(), Recorder(stop_after=4), Recorder()
    loop.run(plan(tmp_path, "calm", tokens), calm)
    cut = plan(tmp_path, "cut", tokens)
    loop.run(cut, first)
    loop.run(cut, second)
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
    loop.run(cut, first)
    (newest,) = [one for one in (Path(cut.run_folder) / "checkpoints").iterdir() if "-00000005-" in one.name]
    storage.remove_tree(newest)
    loop.run(cut, second)
    assert second.resumed == [4]
    assert [one["step"] for one in second.evaluations] == [STEPS]


def test_checkpoints_that_cannot_be_read_for_a_while_are_waited_for(
    tmp_path: Path, tokens: TokenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tmp_path, "away", tokens)
    loop.run(made, Recorder(stop_after=5))
    away, read = iter(range(2)), checkpoint._read

    def reads(folder: Path) -> Any:
        if next(away, None) is not None:
            raise OSError(errno.EIO, "Input/output error")
        return read(folder)

    monkeypatch.setattr(checkpoint, "_read", reads)
    recorder = Recorder()
    loop.run(made, recorder)
    assert recorder.resumed == [5]
    assert told(recorder) == ["worker 0: a checkpoint cannot be read and is tried again: Input/output error"]


def test_a_note_of_a_start_that_cannot_be_written_ends_nothing(tmp_path: Path, tokens: TokenSet) -> None:
    made = plan(tmp_path, "noteless", tokens)
    (Path(made.run_folder) / loop.ATTEMPTS).mkdir(parents=True)
    assert loop.run(made, Recorder()).status == "done"


def test_the_summary_is_the_last_file_of_a_run(
    tmp_path: Path, tokens: TokenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it a run is done, and no other start would write what is missing."""
    made = plan(tmp_path, "summed", tokens)
    folder = Path(made.run_folder)
    recorder = Recorder()
    done = loop.run(made, recorder)
    folder.joinpath("steps.jsonl").write_text("".join(json.dumps(one) + "\n" for one in recorder.steps))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outcome, "write_report", full)
    seconds = {"train": 1.0}
    with pytest.raises(OSError, match="No space"):
        outcome.write_outcome(made, asdict(done), {}, [], seconds, 2.0, {})
    assert not (folder / "summary.json").exists()
