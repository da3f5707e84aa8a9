"""Predictions on a running cluster: the run's own validation rows, new data, and a driver that is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import SECRET, ended, until


def words(run: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "medray", "predict", str(run), *arguments]


def predict(cluster: Any, run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ended(cluster, words(run, *arguments))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.long  # tests/unit/cli/test_predict_whole.py shows it in one process
def test_a_killed_command_goes_on_and_gives_the_bytes_of_a_calm_one(
    cluster: Any, calm_run: Path, tmp_path: Path
) -> None:
    rows = [{"id": row["id"], "input": f"{SECRET} {row['input']}"} for row in tiny.rows(200, seed=4)]
    data = str(tiny.write_jsonl(tmp_path / "new.jsonl", rows))
    fixed = (data, "--part-rows", "32", "--temperature", "0.8", "eval.generation.max_new_tokens=4")
    done = predict(cluster, calm_run, *fixed, "--to", str(tmp_path / "calm"), "cluster.workers=2")
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stderr + done.stdout
    found = lines(tmp_path / "calm")
    assert [line["id"] for line in found] == [row["id"] for row in rows]

    cut = tmp_path / "cut"
    driver = subprocess.Popen(
        words(calm_run, *fixed, "--to", str(cut), "cluster.workers=1"),
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: any((cut / "parts").glob("part-*")), "the first part", driver=driver)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(60) == 75
    finished = {path.name: path.stat().st_mtime_ns for path in (cut / "parts").glob("part-*")}
    assert 1 <= len(finished) < 7
    assert not (cut / "predictions.jsonl").exists()
    other = predict(cluster, calm_run, *fixed, "--to", str(cut), "--seed", "9")
    assert other.returncode == 2
    assert "decoding.seed was 0, and is now 9" in other.stderr
    again = predict(cluster, calm_run, *fixed, "--to", str(cut), "cluster.workers=2")
    assert again.returncode == 0, again.stderr
    assert "rows are done" in again.stderr
    assert (cut / "predictions.jsonl").read_bytes() == (tmp_path / "calm" / "predictions.jsonl").read_bytes()


def test_the_validation_split_of_a_run_is_predicted_as_the_run_did(
    cluster: Any, calm_run: Path, tmp_path: Path
) -> None:
    done = predict(cluster, calm_run, "--to", str(tmp_path / "held"), "--log-probability")
    assert done.returncode == 0, done.stderr
    found = lines(tmp_path / "held")
    own = [json.loads(line) for line in (calm_run / "predictions.jsonl").read_text().splitlines()]
    assert len(found) == 8
    assert [(line["id"], line["prediction"]) for line in found[:6]] == [
        (line["id"], line["prediction"]) for line in own
    ]
    assert all(line["reference"].endswith(SECRET) and line["log_probability"] < 0 for line in found)
