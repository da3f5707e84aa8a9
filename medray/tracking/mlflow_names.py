"""Names of metrics and tags in MLflow, derived from the keys of a run's records."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from medray.config.loading.credentials import has_credentials

_NOT_METRICS = frozenset({"step", "tokens", "loss_tokens", "samples", "seconds"})
_PERF = frozenset({"mfu", "peak_bytes", "tokens_per_second"})


def step_metrics(record: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a step record under their MLflow names.

    `loss/label` becomes `train/loss_label`; tokens and seconds become tokens per second.
    """
    metrics = {}
    for key, value in numbers(record).items():
        if key not in _NOT_METRICS:
            metrics[metric_name(("perf/" if key in _PERF else "train/") + key.replace("/", "_"))] = value
    if record.get("tokens") is not None and (record.get("seconds") or 0) > 0:
        metrics["perf/tokens_per_second"] = float(record["tokens"]) / float(record["seconds"])
    return metrics


def final_metrics(summary: dict[str, Any], prefix: str = "final") -> dict[str, float]:
    """Return the numbers of a run's summary under flat names, `final/<key>/<key>`.

    Values that are not numbers are left out.
    """
    metrics = {metric_name(f"{prefix}/{key}"): value for key, value in numbers(summary).items()}
    for key, value in summary.items():
        if isinstance(value, dict):
            metrics.update(final_metrics(value, f"{prefix}/{key}"))
    return metrics


def final_tags(summary: dict[str, Any]) -> dict[str, str]:
    """Return the MLflow tags of a finished run: the step of the exported weights, and the names of its warnings or
    `none`.
    """
    tags = {}
    if summary.get("exported_step") is not None:
        tags["medray.exported_step"] = str(summary["exported_step"])
    if "warnings" in summary:
        tags["medray.warnings"] = ", ".join(name for name, _ in warnings_of(summary)) or "none"
    return tags


def numbers(record: dict[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def metric_name(name: str) -> str:
    """Return a metric name that MLflow accepts, at most 250 characters long.

    Characters that MLflow forbids are replaced, and path parts that are empty or only dots are removed.
    """
    parts = [part for part in re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII).split("/") if part.strip(". ")]
    return "/".join(parts)[:250].rstrip("/")


def without_userinfo(uri: str) -> str:
    """Return the URI without user, password and query, so that it is safe to show.

    In a malformed URL, everything after `://` is removed.
    """
    if not has_credentials(uri) and "@" not in uri:
        return uri
    parts = urlsplit(uri)
    if uri.startswith("sqlite:") and not parts.query:  # a path may contain any character
        return uri
    if "@" in parts.path:  # a password that contains a slash
        return f"{parts.scheme}://"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def warnings_of(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, sentence) for each warning in a run's summary. Summaries of older versions have none."""
    found = summary.get("warnings")
    known = found if isinstance(found, list) else []
    return [(str(each.get("name")), str(each.get("text"))) for each in known if isinstance(each, dict)]
