"""The result files of a run: summary.json, predictions.jsonl, report.html."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medray import storage
from medray.config import Config, dump
from medray.data.batching.batch_plan import BatchPlan
from medray.errors import RunFailedError
from medray.evaluate.scoring.collapse import Answer
from medray.plan.resources import SAME_VERSIONS
from medray.report.run_page import write_report
from medray.tracking.ledger import EVALS_FILE, STEPS_FILE
from medray.tracking.step_file import read_records
from medray.train.export.card import write_card
from medray.train.export.collapse import Evidence, warnings
from medray.train.export.evaluation import TextSample, at_exported_step
from medray.train.loop.finish import WorkerResult
from medray.train.loop.training import TRAINED
from medray.train.run_folder.files import RunResult, attempts, folder_of, number, restarts
from medray.train.run_folder.finished_run import FinishedRun
from medray.train.run_folder.pages import data_tables
from medray.train.worker_plan import WorkerPlan

PACKAGES = (*SAME_VERSIONS, "mlflow")


def write_results(
    plan: WorkerPlan,
    worker_result: WorkerResult,
    after: dict[str, float],
    samples: Sequence[TextSample],
    driver_seconds: dict[str, float],
    total_seconds: float,
    manifests: dict[str, Any],
    planned_bytes: int | None = None,
) -> RunResult:
    """Write the result files, and return the folder and the summary.

    planned_bytes: peak memory of a worker as the plan computed it, None if it is not known. Raises RunFailedError if nothing
    was trained.
    """
    folder, config = storage.at(plan.run_folder), plan.config
    steps, evaluations = read_records(folder / STEPS_FILE), read_records(folder / EVALS_FILE)
    progress = worker_result.progress
    if worker_result.status == TRAINED and not (progress.samples and progress.loss_tokens and steps):
        raise RunFailedError(
            f"nothing was trained: {progress.samples} samples, {progress.loss_tokens} tokens with loss. "
            "Fix: look at what the model sees with medray data inspect"
        )
    seconds = _seconds(worker_result.seconds, driver_seconds, total_seconds, steps)
    first: dict[str, float] = next((line.get("metrics", {}) for line in evaluations if line["step"] == 0), {})
    last = at_exported_step(worker_result.evaluated, after)
    export = {name: value for name, value in after.items() if last[name] != value}
    tokens, computed = (
        int(sum(number(line, name) for line in steps)) for name in ("tokens", "computed_tokens")
    )
    batches = plan.train.plan(config)
    planned = {} if planned_bytes is None else {"planned_bytes": planned_bytes}
    summary = {
        "name": config.run.name,
        "status": worker_result.status,
        **early_summary(plan, worker_result),
        "passes": {name: round(share, 4) for name, share in _passes(plan, batches, progress.step).items()},
        "loss_tokens": progress.loss_tokens,
        "train_loss_first": steps[0].get("loss") if steps else None,
        "train_loss_last": steps[-1].get("loss") if steps else None,
        "eval": {"before": first, "after": last} | ({"export": export} if export else {}),
        "warnings": warnings(
            Evidence(
                steps=steps,
                before=first,
                after=last,
                export=export,
                answers=[Answer(one.prompt, one.reference, one.prediction) for one in samples],
                vocabulary=_vocabulary(plan.model),
                tasks=manifests.get("train", {}).get("tasks", {}),
            )
        ),
        "padding_fraction": round(1 - tokens / computed, 6) if computed else None,
        "tokens_per_second": round(tokens / seconds["train"], 3) if seconds["train"] else None,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "restarts": max(attempts(folder) - 1, 0),
        "memory": worker_result.memory and asdict(worker_result.memory) | planned,
    }
    if samples:
        storage.write(
            folder / "predictions.jsonl", "".join(_prediction(sample, config) for sample in samples)
        )
    data_table, lengths = data_tables(manifests)
    data_table += [(f"passes over {name}", f"{share:.2f}") for name, share in summary["passes"].items()]
    shown = [{"prompt": s.prompt, "reference": s.reference, "prediction": s.prediction} for s in samples[:12]]
    write_report(
        folder / "report.html",
        summary=summary,
        config_yaml=dump(config),
        steps=steps,
        evaluations=evaluations,
        data_table=data_table,
        lengths=lengths,
        samples=shown if config.tracking.show_text else None,
        restarts=restarts(folder),
    )
    if worker_result.exported is not None:
        write_card(plan, summary, manifests)
    # summary.json is last: with it the run is done, and no later start writes a missing file.
    storage.write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return RunResult(folder, summary)


def early_summary(plan: WorkerPlan, worker_result: WorkerResult) -> dict[str, Any]:
    """Return the values of the model card before the export is evaluated, named as in summary.json."""
    progress = worker_result.progress
    return {
        "steps": progress.step,
        "exported_step": worker_result.exported,
        "epochs": round(plan.train.plan(plan.config).epoch(progress.step), 4),
        "samples": progress.samples,
        "tokens": progress.tokens,
        "world_size": worker_result.world_size,
        "order_sha256": progress.order,
        "eval": {"after": worker_result.evaluated},
        "parameters": {"total": worker_result.parameters, "trainable": worker_result.trainable},
        "versions": versions(),
    }


def write_failure(config: Config, reason: str) -> dict[str, Any]:
    """Write the summary of a failed run, with its steps and the reason, and return it."""
    folder = folder_of(config)
    steps = read_records(folder / STEPS_FILE)
    summary = {
        "name": config.run.name,
        "status": "failed",
        "reason": reason,
        "steps": len(steps),
        "train_loss_first": steps[0].get("loss") if steps else None,
        "train_loss_last": steps[-1].get("loss") if steps else None,
        "restarts": max(attempts(folder) - 1, 0),
        "versions": versions(),
    }
    storage.write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _vocabulary(model: dict[str, Any]) -> int | None:
    """Return the vocabulary size; a multimodal config has it in its part for text."""
    size = model.get("vocab_size") or (model.get("text_config") or {}).get("vocab_size")
    return size if isinstance(size, int) else None


def _passes(plan: WorkerPlan, batches: BatchPlan, step: int) -> dict[str, float]:
    """Return the number of passes over each corpus if corpora are mixed by weight, which repeats small ones."""
    names = [entry.path.rsplit("/", 1)[-1] for entry in plan.config.data.train]
    if not plan.train.weights:
        return {}
    return {f"{number}: {names[number]}": share for number, share in batches.repeats(step).items()}


def _seconds(
    worker: dict[str, float], driver: dict[str, float], total: float, steps: list[dict[str, Any]]
) -> dict[str, float]:
    """Return the duration of each phase in seconds.

    setup: the rest of the workers' time, which is starting the group, imports and loading the model.
    """
    train = sum(number(line, "seconds") for line in steps)
    inside = worker.get("train", 0) + worker.get("export", 0) + worker.get("evaluate", 0)
    return {
        "setup": max(driver.get("fit", 0.0) - inside, 0.0),
        "data": driver.get("data", 0.0),
        "first_step": driver.get("first_step", 0.0),
        "train": train,
        "checkpoint_blocked": worker.get("checkpoint_blocked", 0.0),
        "evaluate": worker.get("evaluate", 0.0) + driver.get("evaluate", 0.0),
        "export": worker.get("export", 0.0),
        "total": total,
    }


def _prediction(sample: TextSample, config: Config) -> str:
    line = {"id": sample.id, "prediction": sample.prediction}
    if config.tracking.show_text:
        line |= {"prompt": sample.prompt, "reference": sample.reference}
    return json.dumps(line, ensure_ascii=False) + "\n"


def write_records(run: FinishedRun, folder: Path) -> None:
    """Write trainer_stats.json, loss.csv and memory.json to `folder`."""
    for name, tree in (("trainer_stats.json", trainer_stats(run)), ("memory.json", memory(run))):
        (folder / name).write_text(json.dumps(tree, indent=2) + "\n")
    (folder / "loss.csv").write_text(loss_table(run))


def trainer_stats(run: FinishedRun) -> dict[str, Any]:
    """Return statistics under the names of transformers' Trainer.

    train_runtime: seconds of all steps, including the wait for data. train_loss: mean over the steps. total_flos is
    missing, because medray does not count operations.
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
    """Return a CSV table of losses, one row per optimizer step."""
    return "Step,Loss\n" + "".join(
        f"{line['step']},{line['loss']!r}\n" for line in run.steps if "loss" in line
    )


def memory(run: FinishedRun) -> dict[str, Any]:
    """Return the memory of the first worker in bytes, and in percent of its device's memory; all None if not recorded."""
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
