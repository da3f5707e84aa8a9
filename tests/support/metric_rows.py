"""Rows for metrics, and a metric of two lists of texts."""

from __future__ import annotations

from typing import Any

from medray.evaluate.metrics.measured import Measured
from medray.evaluate.metrics.registry import REGISTRY
from medray.evaluate.metrics.rows import Reference, Rows, Settings


def rows(predictions: list[str], references: list[str], **columns: Any) -> Rows:
    return Rows(
        ids=tuple(map(str, range(len(references)))),
        predictions=tuple(predictions),
        references=tuple(map(Reference, references)),
        **columns,
    )


def measured(
    name: str, predictions: list[str], references: list[str], settings: Settings | None = None
) -> Measured:
    return REGISTRY[name].measure(rows(predictions, references), settings or Settings())
