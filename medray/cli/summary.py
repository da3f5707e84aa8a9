"""The tables at the end of a run: its result, and the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medray.config import Config
from medray.report.console import Console, duration, status_of
from medray.report.run_log import Consoles
from medray.storage import StoragePath
from medray.tracking.mlflow_names import warnings_of


def show(console: Console | Consoles, config: Config, result: Any, command: Sequence[str]) -> None:
    """Print the result of a run, its folder, and the next commands. command: the words of the command that was run."""
    summary = result.summary
    before, after = summary["eval"].get("before", {}), summary["eval"].get("after", {})
    rows: list[tuple[str, ...]] = [("validation", "before", "after")]
    rows += [
        (name, _number(before.get(name)), _number(after.get(name)))
        for name in sorted({*before, *after}, key=_rank)
    ]
    if len(rows) > 1:
        console.table("result", rows)
    console.table("run", _facts(config, result))
    if found := warnings_of(summary):
        title = "WARNING: the run has ended, but check the model before you use it"
        console.table(title, [(text,) for _, text in found])
    if summary["status"] == "stopped":
        console.table("next", [("resume", shlex.join(command))])
        return
    console.table("next", next_steps(config, result.folder))


def next_steps(config: Config, folder: StoragePath) -> list[tuple[str, ...]]:
    """Return (name, command) pairs of what the user may open or run after a run has ended."""
    found: list[tuple[str, ...]] = [("report", _opened(folder / "report.html"))]
    if config.tracking.enabled:
        found.append(("MLflow", f"medray ui {shlex.quote(str(folder))}"))
    if config.data.dataset == "clinic":  # simulated data, so probably a first try
        first = "copy configs/first_run.yaml, set your file in it, and run: medray train first_run.yaml"
        found.append(("your data", first))
    return found


def _opened(report: StoragePath) -> str:
    return f"open {report}" if isinstance(report, Path) else f"aws s3 cp {report} . && open report.html"


def _facts(config: Config, result: Any) -> list[tuple[str, ...]]:
    summary, parameters = result.summary, result.summary.get("parameters", {})
    trained = config.peft.describe() if config.peft.type != "none" else "all weights"
    return [
        ("status", status_of(summary)),
        ("model", str(config.model.preset or config.model.name)),
        (
            "trained",
            f"{trained}: {parameters.get('trainable', 0):,} of {parameters.get('total', 0):,} parameters",
        ),
        (
            "steps",
            f"{summary['steps']} with {summary.get('samples', 0):,} samples, {summary.get('tokens', 0):,} tokens",
        ),
        (
            "speed",
            f"{summary.get('tokens_per_second') or 0:,.0f} tokens per second, "
            f"{duration(summary.get('seconds', {}).get('total') or 0)} for this start",
        ),
        ("folder", str(result.folder)),
    ]


def _rank(name: str) -> tuple[bool, str]:
    return not name.startswith("loss"), name


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
