"""The pages about runs that are made from their folders: the report of one run, and the comparison of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from medray.config.method_specs import LABEL
from medray.config.method_specs.dpo import REJECTED
from medray.report.comparison import ComparedRun, Difference
from medray.report.curves import column, is_number
from medray.report.run_page import before_after, run_page
from medray.storage import StoragePath
from medray.tracking.mlflow_names import warnings_of
from medray.train.run_folder.changes import ABSENT, shown
from medray.train.run_folder.record import RunRecord, total

LONGEST_VALUE = 300  # characters of a value of the config
OWN_KEYS = ("run.name", "run.storage")  # the table of runs shows them


def page_of(record: RunRecord) -> str:
    """Return the HTML report of a run, from the files in its folder."""
    data_table, lengths = data_tables(record.manifests)
    passes = record.summary.get("passes") or {}
    return run_page(
        str(record.summary.get("name") or record.folder.name),
        summary=record.summary,
        config_yaml=record.config_yaml,
        steps=record.steps,
        evaluations=record.evaluations,
        data_table=data_table + [(f"passes over {name}", f"{share:.2f}") for name, share in passes.items()],
        lengths=lengths,
        samples=record.samples,
        restarts=record.restarts,
    )


def data_tables(manifests: dict[str, Any]) -> tuple[list[tuple[str, str]], dict[str, dict[str, float]]]:
    """Return the rows of the table about the data, and the lengths of each task, from the manifest of each split."""
    rows, lengths = [], {}
    for split, manifest in sorted(manifests.items()):
        rows.append((f"{split}: rows", f"{manifest['rows']:,}"))
        rows.append((f"{split}: rejected rows", f"{manifest['rejected']:,}"))
        rows += [
            (f"{split}: left out, {reason}", f"{count:,}") for reason, count in manifest["dropped"].items()
        ]
        for task, numbers in manifest["tasks"].items():
            rows.append((f"{split}: tokens of {task}", f"{numbers['tokens']:,}"))
            if split == "train" and numbers["rows"] < manifest["rows"]:
                rows.append((f"{split}: rows without {task}", f"{manifest['rows'] - numbers['rows']:,}"))
            if split == "train":
                lengths[task] = {name: numbers[name] for name in ("p50", "p90", "p99", "max", "truncated")}
        if found := _answer_lengths(manifest["tasks"]):
            rows.append((f"{split}: mean tokens of an answer, chosen and rejected", found))
    return rows, lengths


def _answer_lengths(tasks: dict[str, Any]) -> str | None:
    """Return the mean lengths of both answers of pairs: a large difference teaches length. None if there are no pairs."""
    means = [
        tasks[name]["loss_tokens"] / tasks[name]["rows"]
        for name in (LABEL.name, REJECTED)
        if tasks.get(name, {}).get("rows")
    ]
    if len(means) < 2 or not means[0]:
        return None
    return f"{means[0]:.1f} and {means[1]:.1f}, ratio {means[1] / means[0]:.2f}"


def labels(folders: Sequence[StoragePath]) -> list[str]:
    """Return the label of each run: the name of its folder, or its whole path if another run has the same name."""
    count = Counter(folder.name for folder in folders)
    return [folder.name if count[folder.name] == 1 else str(folder) for folder in folders]


def compared(record: RunRecord, label: str) -> ComparedRun:
    """Return the values of a run that a comparison shows."""
    summary = record.summary
    before, after = before_after(summary, record.evaluations)
    flat = [{**one.get("metrics", {}), "step": one["step"]} for one in record.evaluations]
    names = dict.fromkeys(name for one in flat for name in one if name != "step")
    return ComparedRun(
        label=label,
        folder=str(record.folder),
        status=str(summary["status"]),
        reason=str(summary["reason"]) if summary.get("reason") else None,
        steps=int(summary.get("steps") or 0),
        tokens=int(summary.get("tokens") or 0),
        seconds=total(record.steps, "seconds"),
        restarts=len(record.restarts),
        train_loss_first=_number(summary.get("train_loss_first")),
        train_loss_last=_number(summary.get("train_loss_last")),
        before={name: float(value) for name, value in before.items() if is_number(value)},
        after={name: float(value) for name, value in after.items() if is_number(value)},
        warnings=tuple(text for _, text in warnings_of(summary)),
        losses=tuple(column(record.steps, "loss")),
        metrics={name: tuple(column(flat, name)) for name in names},
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and is_number(value) else None


def differences(configs: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Return the keys whose values differ, in order. Values that may be secret or may quote records are not shown.

    A key of an entry of a list, such as data.validation[0].split, is left out if it differs only because some runs have no
    such entry. configs: the values of each run's config by dotted key.
    """
    found = []
    for key in sorted({key for config in configs for key in config} - set(OWN_KEYS)):
        values = [config.get(key, ABSENT) for config in configs]
        have = [value for value in values if value is not ABSENT or "[" not in key]
        if any(value != have[0] or type(value) is not type(have[0]) for value in have):
            texts = tuple(shown(key, value, LONGEST_VALUE) for value in values)
            found.append(Difference(key=key, values=texts))
    return found
