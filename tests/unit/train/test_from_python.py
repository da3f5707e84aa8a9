"""Training from Python, as docs/running.md shows it; tests/ray/test_python.py makes the same calls on a cluster."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import ray

from medray import train

PAGE = Path(__file__).parents[3] / "docs" / "running.md"


def test_the_python_of_running_calls_what_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the block of the page with a stand-in for the training itself."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "run.yaml").write_text(
        "run: {storage: runs}\ndata: {dataset: clinic, tokenizer: train}\n"
        "model: {name: null, init: random, preset: llama-tiny}\n"
    )
    signature, ran = inspect.signature(train.run), []

    def stand_in(*arguments: Any, **options: Any) -> train.RunResult:
        config = signature.bind(*arguments, **options).arguments["config"]
        ran.append((config.run.name, config.train.max_steps))
        folder = Path(config.run.storage) / config.run.name
        return train.RunResult(folder=folder, summary={"status": "done", "eval": {"after": {"loss": 1.0}}})

    monkeypatch.setattr(train, "run", stand_in)
    monkeypatch.setattr(ray, "init", lambda: None)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert ran == [("second", 200)]
    assert capsys.readouterr().out == f"done {{'loss': 1.0}} {tmp_path / 'runs' / 'second'}\n"
