"""The first thing a newcomer sees, as a newcomer runs it: a Ray of its own, real weights, two workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PHASES = ("start", "cluster", "data", "model", "evaluation", "training", "export")


# The same run in a third of the time: it need not have learnt, only to go through all that a newcomer sees.
SHORT = (
    "train.max_steps=3",
    "data.clinic.train_rows=32",
    "data.clinic.validation_rows=8",
    "eval.generation.rows=4",
)


def quickstart(storage: Path, *overrides: str) -> tuple[Path, str]:
    """(run folder, what was printed)"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "medray",
            "train",
            "configs/quickstart.yaml",
            f"run.storage={storage}",
            *overrides,
        ],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return storage / "quickstart", done.stderr


@pytest.mark.long
def test_the_model_learns(tmp_path: Path) -> None:
    folder, shown = quickstart(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    assert after["entity_f1"] > before["entity_f1"] + 0.3
    assert after["rouge_avg"] > before["rouge_avg"] + 30
    assert after["loss"] < before["loss"] - 1.5
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 32
    assert "Doctor:" in (folder / "report.html").read_text()
    assert_told(folder, shown)


def test_a_newcomer_is_told_what_happens(tmp_path: Path) -> None:
    folder, shown = quickstart(tmp_path, *SHORT)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["eval"]["after"]["loss"] < summary["eval"]["before"]["loss"]
    assert summary["world_size"] == 2
    assert (folder / "export" / "adapter_model.safetensors").exists()
    assert_told(folder, shown)


def assert_told(folder: Path, shown: str) -> None:
    """Every phase in its order, a line with a time for each, the numbers before and after, and where things are."""
    positions = [shown.index(f"] {phase}") for phase in PHASES]
    assert positions == sorted(positions)
    assert re.search(r"step +\d+/\d+ +loss \d.*tokens/s.*left", shown)
    for text in ("before", "after", "entity_f1", str(folder / "report.html"), "medray ui", "lora rank 16"):
        assert text in shown
    assert "Warning" not in shown
    assert len(re.findall(r"^\[(?: *\d+ min)? *[\d.]+ s\]", shown, re.M)) > 10
