"""What a run says at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from medray.cli.summary import next_steps
from medray.config import Config


def config(**sections: object) -> Config:
    return Config.model_validate({"model": {"preset": "llama-tiny", "init": "random"}, **sections})


@pytest.mark.parametrize("enabled", [True, False])
def test_mlflow_is_named_where_it_was_told_something(enabled: bool) -> None:
    commands = dict(next_steps(config(tracking={"enabled": enabled}), Path("a run")))
    assert commands["report"] == "open a run/report.html"
    assert commands.get("MLflow") == ("medray ui 'a run'" if enabled else None)


def test_own_data_is_proposed_to_whoever_has_only_tried() -> None:
    assert "your data" in dict(next_steps(config(data={"dataset": "clinic"}), Path("a run")))
    assert "your data" not in dict(next_steps(config(data={"train": "notes.jsonl"}), Path("a run")))
