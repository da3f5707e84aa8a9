"""A finished run's numbers in the forms that others read: Trainer's statistics, a table of losses, memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medray.train.finished_run import FinishedRun
from medray.train.run_files import number


def write_records(run: FinishedRun, folder: Path) -> None:
    """trainer_stats.json, loss.csv and memory.json into `folder`."""
    for name, tree in (("trainer_stats.json", trainer_stats(run)), ("memory.json", memory(run))):
        (folder / name).write_text(json.dumps(tree, indent=2) + "\n")
    (folder / "loss.csv").write_text(loss_table(run))


def trainer_stats(run: FinishedRun) -> dict[str, Any]:
    """Names as transformers' Trainer has them. train_runtime: seconds of all steps, waiting for data included.

    train_loss: mean over the steps. total_flos is left out: medray counts no operations.
    """
    seconds = sum(number(line, "seconds") + number(line, "data_wait_seconds") for line in run.steps)
    losses = [line["loss"] for line in run.steps if line.get("loss") is not None]
    samples, steps = run.summary.get("samples", 0), len(run.steps)
    return {
        "train_runtime": round(seconds, 4),
        "train_samples_per_second": round(samples / seconds, 4) if seconds else None,
        "train_steps_per_second": round(steps / seconds, 4) if seconds else None,
        "train_loss": sum(losses) / len(losses) if losses else None,
        "steps": steps,
        "epoch": run.summary.get("epochs"),
    }


def loss_table(run: FinishedRun) -> str:
    """CSV, a row an optimizer step."""
    return "Step,Loss\n" + "".join(
        f"{line['step']},{line['loss']!r}\n" for line in run.steps if "loss" in line
    )


def memory(run: FinishedRun) -> dict[str, Any]:
    """Of the first worker, in bytes and in percent of what its device has. All null where the run recorded none."""
    found: dict[str, Any] = run.summary.get("memory") or {}
    total, before, peak = found.get("total_bytes"), found.get("before_bytes"), found.get("peak_bytes")
    training = found["peak_bytes"] - found["before_bytes"] if found else None
    return {
        "device": found.get("device"),
        "total_bytes": total,
        "reserved_before_bytes": before,
        "peak_bytes": peak,
        "peak_for_training_bytes": training,
        "peak_percent": _percent(peak, total),
        "peak_for_training_percent": _percent(training, total),
        "of": "the first worker: what torch reserved of its GPU, or without one the process's resident memory",
    }


def _percent(part: int | None, whole: int | None) -> float | None:
    return round(100 * part / whole, 3) if part is not None and whole else None
