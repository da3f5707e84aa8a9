"""Help and a config error answer at once: nothing heavy is imported on the way. Other processes, as a user's shell.

How many seconds that makes: benchmarks/startup.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from heavy_imports import HEAVY, WATCHED, run

import medray
from medray.cli.main import QUIET


def write_configs(folder: Path) -> Path:
    (folder / "sound.yaml").write_text(
        "data: {dataset: clinic, tokenizer: train}\nmodel: {init: random, preset: t5-tiny}\n"
    )
    (folder / "wrong.yaml").write_text("train: {epoch: 3}\n")
    return folder


CASES: list[tuple[list[str], int, str]] = [
    (["--help"], 0, "usage: medray"),
    (["--version"], 0, f"medray {medray.__version__}"),
    (["train", "--help"], 0, "usage: medray train"),
    (["data", "simulate", "--help"], 0, "usage: medray data simulate"),
    (["ui", "--help"], 0, "usage: medray ui"),
    (["export", "--help"], 0, "usage: medray export"),
    (["report", "--help"], 0, "usage: medray report"),
    (["eval", "--help"], 0, "usage: medray eval"),
    (["report", "nowhere"], 2, "there is no run in this folder"),
    (["export", ".", "--format", "merged"], 2, "this folder holds no run"),
    ([], 2, "usage: medray"),
    (["train"], 2, "usage: medray train"),
    (["train", "nowhere.yaml"], 2, "no such config file"),
    (["train", "wrong.yaml"], 2, "did you mean train.epochs?"),
    (["train", "sound.yaml", "train.precision=fp16"], 2, "T5 overflows to NaN in fp16"),
    (["train", "sound.yaml", "cluster.workers=100000"], 2, "100000 workers of 0.5 CPU need 50001 CPUs"),
    (["train", "sound.yaml", "run.storage=sound.yaml"], 2, "not a folder"),
    (
        ["train", "sound.yaml", "model.preset=llama-tiny", "method={name: distill, variant: cosine}"],
        2,
        "a causal model has no encoder",
    ),
    (["data", "simulate", "x.jsonl", "--rows", "0"], 2, "must be at least 1"),
    (["ui", "."], 2, "this folder has no record of an MLflow run"),
    (["config", "train.max_steps"], 0, "may change when a run resumes"),
]
# All of them in one process: after each, its exit code, what it said, and the heavy modules that are there.
ALL = f"""
import contextlib, io, json, sys
from medray.cli.main import main
for arguments in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    heavy = [name for name in {sorted(HEAVY)!r} if name in sys.modules]
    print(json.dumps([code, said.getvalue(), heavy]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, list[str]]]:
    """(exit code, what it said, heavy modules) of each case."""
    folder = write_configs(tmp_path_factory.mktemp("startup"))
    done = run("-c", ALL, folder=folder, text=json.dumps([arguments for arguments, _, _ in CASES]))
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("case", range(len(CASES)), ids=[" ".join(case[0]) or "nothing" for case in CASES])
def test_nothing_heavy_is_imported(answers: list[tuple[int, str, list[str]]], case: int) -> None:
    (_, code, says), (ended, said, imported) = CASES[case], answers[case]
    assert imported == []
    assert (ended, says in said) == (code, True), said
    assert "Traceback" not in said


def test_the_watch_sees_what_it_watches_for(tmp_path: Path) -> None:
    done = run("-c", f"import numpy\n{WATCHED}", "--version", folder=tmp_path)
    assert json.loads(done.stderr) == ["numpy"]


def test_the_rooms_are_imported_without_their_libraries(tmp_path: Path) -> None:
    code = (
        "import json, sys, medray.train, medray.config, medray.cli.main\n"
        f"print(json.dumps([name for name in {sorted(HEAVY)!r} if name in sys.modules]))"
    )
    done = run("-c", code, folder=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr


def test_ray_joins_no_cluster_that_it_was_not_told_to_join() -> None:
    """A thread of a job that was stopped must not connect to the cluster of another user on this machine."""
    program = "import ray\ntry:\n    ray.put(1)\nexcept Exception:\n    print(ray.is_initialized())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.strip() == "False", done.stderr
