"""Whether an indexed split can be trained or validated on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medray.config import Config
from medray.data.membership import SplitIndex
from medray.errors import InputError


def check_split(config: Config, split: str, index: SplitIndex, rejects: Path) -> None:
    """Raises InputError for too many bad rows, no rows, and rows that lack what method and metrics need."""
    _check_rejects(index, split, config.data.max_rejects, rejects)
    if "rationale" in config.method.tasks and not index.with_rationale:
        raise InputError(
            f"no {split} row has a rationale, and method.mode task_prefix trains on it",
            key="data.columns.rationale",
            value=config.data.columns.rationale,
            mend="name the column, or set method.mode: standard",
        )
    missing = index.rows - index.with_entities
    if split == "validation" and "entity_f1" in config.eval.metrics and missing:
        raise InputError(
            f"{missing} of {index.rows} validation rows have no entities",
            key="eval.metrics",
            value="entity_f1",
            mend="name data.columns.entities or remove it",
        )


def _check_rejects(index: SplitIndex, split: str, limit: float, rejects: Path) -> None:
    total = index.rows + index.rejected
    reasons = ", ".join(f"{reason}: {count}" for reason, count in Counter(index.rejects).most_common(3))
    if not index.rows:
        left = {**index.rejects, **index.dropped}
        why = ", ".join(f"{reason}: {count}" for reason, count in left.items())
        what = f"no usable row among {sum(left.values())}" + (f" ({why})" if why else "")
        raise InputError(f"the {split} split is empty: {what}", key=f"data.{split}")
    if index.rejected > limit * (total + sum(index.dropped.values())):
        raise InputError(
            f"{index.rejected} of {total} {split} rows are bad ({reasons}), more than the share of "
            f"{limit:g} that data.max_rejects allows",
            key=f"data.{split}",
            mend=f"mend them (named in {rejects}) or raise data.max_rejects",
        )
