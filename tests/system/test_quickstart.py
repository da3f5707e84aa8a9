"""The first thing a newcomer sees, as a newcomer runs it: a Ray of its own, real weights, two workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PHASES = ("start", "cluster", "data", "model", "evaluation", "training", "export")


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(run folder, what was printed)"""
    storage = tmp_path_factory.mktemp("runs")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "medray", "train", "configs/quickstart.yaml", f"run.storage={storage}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return storage / "quickstart", done.stderr


def test_the_model_learns(quickstart: tuple[Path, str]) -> None:
    folder, _ = quickstart
    summary = json.loads((folder / "summary.json").read_text())
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    assert after["entity_f1"] > before["entity_f1"] + 0.3
    assert after["rouge_avg"] > before["rouge_avg"] + 30
    assert after["loss"] < before["loss"] - 1.5
    assert summary["world_size"] == 2
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 32
    assert (folder / "export" / "adapter_model.safetensors").exists()


def test_it_says_what_it_does(quickstart: tuple[Path, str]) -> None:
    folder, shown = quickstart
    places = [shown.index(f"] {phase}") for phase in PHASES]
    assert places == sorted(places)
    assert re.search(r"step +\d+/\d+ +loss \d.*tokens/s.*left", shown)
    for text in ("before", "after", "entity_f1", str(folder / "report.html"), "medray ui", "lora rank 16"):
        assert text in shown
    assert "Warning" not in shown
    stamps = [
        int(found[1] or 0) * 60 + float(found[2])
        for found in re.finditer(r"^\[(?: *(\d+) min)? *([\d.]+) s\]", shown, re.M)
    ]
    assert len(stamps) > 10
    assert max(later - earlier for earlier, later in pairwise(stamps)) < 60
    report = (folder / "report.html").read_text()
    assert "Doctor:" in report
