"""What a run leaves is for its owner alone, whatever the umask of the shell or of the cluster."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from recorder import Recorder

from medray.cli.main import main
from medray.tracking import Ledger, TrackingSpec
from medray.train.loop import training


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """Files and folders that anyone but their owner may read or write."""
    return [
        f"{path.relative_to(folder)} {stat.S_IMODE(path.stat().st_mode):o}"
        for path in (folder, *sorted(folder.rglob("*")))
        if path.stat().st_mode & 0o077
    ]


@pytest.mark.parametrize(("peft", "steps"), [("none", 4), ("lora", 2)])
def test_a_finished_run(tmp_path: Path, peft: str, steps: int) -> None:
    """Checkpoints, export with tokenizer, attempts: what the worker loop writes."""
    (tmp_path / "made").mkdir()
    validation = tiny.token_set(tmp_path / "made", tiny.rows(5, seed=5), truth=True, name="validation")
    made = tiny.plan(
        tmp_path / "run",
        tiny.token_set(tmp_path / "made", tiny.rows(11)),
        "llama-tiny",
        workers=1,
        micro=2,
        max_steps=steps,
        train={"zero_stage": 0, "save_every_steps": 2},
        peft={"type": peft},
        eval={"metrics": ["rouge"], "batch_size": 4, "generation": {"rows": 2, "max_new_tokens": 2}},
    )
    (tmp_path / "run").chmod(0o700)  # made by the test, as the driver makes it
    assert training.run(replace(made, validation=validation), Recorder()).progress.step == steps
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    assert {"export", "model.safetensors" if peft == "none" else "adapter_model.safetensors"} <= left
    assert {"checkpoints", "manifest.json", "tokenizer.json"} <= left
    assert open_to_others(tmp_path / "run") == []


def test_what_the_ledger_writes(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/store/mlflow.db"
    for name, tracking in (
        ("plain", TrackingSpec(False, "", "medray", "run", {}, {}, False)),
        ("mlflow", TrackingSpec(True, database, "medray", "run", {}, {}, False)),
    ):
        ledger = Ledger(str(tmp_path / name / "run"), tracking)
        ledger.open(resumed_step=0)
        ledger.step({"step": 1, "loss": 1.0, "tokens": 1, "seconds": 0.1})
        ledger.evaluation({"step": 1, "metrics": {"loss": 1.0}})
        ledger.close({"status": "done"}, [])
        assert (tmp_path / name / "run" / "steps.jsonl").exists()
        assert open_to_others(tmp_path / name) == []
    assert (tmp_path / "store" / "mlflow.db").exists()
    assert open_to_others(tmp_path / "store") == []


def test_the_command_line(tmp_path: Path) -> None:
    assert main(["data", "simulate", str(tmp_path / "rows.jsonl"), "--rows", "2"]) == 0
    assert open_to_others(tmp_path) == []
