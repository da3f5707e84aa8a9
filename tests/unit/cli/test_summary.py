"""What a run says at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from medray.cli.summary import next_steps
from medray.config import Config


@pytest.mark.parametrize("enabled", [True, False])
def test_mlflow_is_named_where_it_was_told_something(enabled: bool) -> None:
    values = {"model": {"preset": "llama-tiny", "init": "random"}, "tracking": {"enabled": enabled}}
    commands = dict(next_steps(Config.model_validate(values), Path("a run")))
    assert commands["report"] == "open a run/report.html"
    assert commands.get("MLflow") == ("medray ui 'a run'" if enabled else None)
