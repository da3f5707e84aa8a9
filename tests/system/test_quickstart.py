"""The first thing a newcomer sees, as a newcomer runs it: a Ray of its own, real weights, two workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import WORKER
from watched import Seen, run_watched

ROOT = Path(__file__).parents[2]
PHASES = ("start", "cluster", "data", "model", "evaluation", "training", "export")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def quickstart(storage: Path, short: Path) -> tuple[Path, str, Seen]:
    """(run folder, what was printed, what its processes did)"""
    train = [sys.executable, "-m", "medray", "train", "configs/quickstart.yaml", f"run.storage={storage}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    said, seen = run_watched(train, env, ROOT, short)
    return storage / "quickstart", said, seen


@pytest.mark.long
def test_the_model_learns_and_a_newcomer_is_told_what_happens(tmp_path: Path, short: Path) -> None:
    folder, shown, seen = quickstart(tmp_path, short)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["world_size"] == 2
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    assert after["entity_f1"] > before["entity_f1"] + 0.3
    assert after["rouge_avg"] > before["rouge_avg"] + 30
    assert after["loss"] < before["loss"] - 1.5
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 32
    assert "Doctor:" in (folder / "report.html").read_text()
    assert (folder / "export" / "adapter_model.safetensors").exists()
    assert_told(folder, shown)
    seen.assert_private(WORKER)
    assert seen.nice == {0}, "the workers have the priority of the command"
    assert list(short.iterdir()) == [], "files of Ray are left"


def assert_told(folder: Path, shown: str) -> None:
    """Every phase in its order, a line with a time for each, the numbers before and after, and where things are."""
    positions = [shown.index(f"] {phase}") for phase in PHASES]
    assert positions == sorted(positions)
    assert re.search(r"step +\d+/\d+ +loss \d.*tokens/s.*left", shown)
    for text in ("before", "after", "entity_f1", str(folder / "report.html"), "medray ui", "lora rank 16"):
        assert text in shown
    assert "Warning" not in shown
    assert len(re.findall(r"^\[(?: *\d+ min)? *[\d.]+ s\]", shown, re.M)) > 10
