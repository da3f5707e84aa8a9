"""The tables that a run prints at its end."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medray.cli.summary import next_steps, show
from medray.config import Config
from medray.report.console import Console


def config(**sections: object) -> Config:
    return Config.model_validate({"model": {"preset": "llama-tiny", "init": "random"}, **sections})


def proposed(made: Config) -> dict[str, str]:
    return {row[0]: row[1] for row in next_steps(made, Path("a run"))}


@pytest.mark.parametrize("enabled", [True, False])
def test_mlflow_is_named_if_the_run_was_tracked(enabled: bool) -> None:
    commands = proposed(config(tracking={"enabled": enabled}))
    assert commands["report"] == "open a run/report.html"
    assert commands.get("MLflow") == ("medray ui 'a run'" if enabled else None)


def test_own_data_is_proposed_after_a_run_on_simulated_data() -> None:
    assert "your data" in proposed(config(data={"dataset": "clinic"}))
    assert "your data" not in proposed(config(data={"train": "notes.jsonl"}))


def test_a_run_with_warnings_is_not_a_plain_done() -> None:
    stream = io.StringIO()
    summary: dict[str, Any] = {
        "status": "done",
        "steps": 3,
        "samples": 24,
        "tokens": 240,
        "tokens_per_second": 1.0,
        "eval": {},
        "seconds": {"total": 1.0},
        "parameters": {"total": 2, "trainable": 1},
        "warnings": [{"name": "zero_gradients", "text": "the gradient is exactly 0"}],
    }
    result = SimpleNamespace(folder=Path("a run"), summary=summary)
    show(Console(stream), config(), result, ["medray", "train", "x.yaml"])
    said = stream.getvalue()
    assert "done, with 1 warning\n" in said
    assert (
        "WARNING: the run has ended, but check the model before you use it\n  the gradient is exactly 0\n"
        in said
    )
    stream.truncate(0)
    show(
        Console(stream),
        config(),
        SimpleNamespace(folder=Path("a"), summary=summary | {"warnings": []}),
        ["x"],
    )
    assert "warning" not in stream.getvalue().lower()
