"""Whether an indexed split can be trained or validated on."""

from __future__ import annotations

import math
from collections import Counter

from medray.config import Config
from medray.data.membership import SplitIndex
from medray.errors import InputError
from medray.storage import StoragePath

REASONS_SHOWN = 3


def check_split(config: Config, split: str, index: SplitIndex, rejects: StoragePath) -> None:
    """Raises InputError for too many bad rows, no rows, and rows that lack what method and metrics need."""
    _check_rejects(index, split, config.data.max_rejects, rejects)
    if config.method.reads_rationales and not index.with_rationale:
        two_step = config.method.variant == "two_step"
        raise InputError(
            f"no {split} row has a rationale, and "
            + ("method.variant: two_step reads it" if two_step else "method.mode task_prefix trains on it"),
            key="data.columns.rationale",
            value=config.data.columns.rationale,
            mend="name the column, or set method.mode: standard" + " and method.variant: null" * two_step,
        )
    missing = index.rows - index.with_entities
    if split == "validation" and "entity_f1" in config.eval.metrics and missing:
        raise InputError(
            f"{missing} of {index.rows} validation rows have no entities",
            key="eval.metrics",
            value="entity_f1",
            mend="name data.columns.entities or remove it",
        )


def _check_rejects(index: SplitIndex, split: str, limit: float, rejects: StoragePath) -> None:
    total = index.rows + index.rejected
    if not index.rows:
        left = Counter({**index.rejects, **index.dropped})
        why = f" ({_most_common(left)})" if left else ""
        mend = "name a source that has rows"
        if left:
            mend = "look at data.leakage, data.duplicates, data.decontaminate and data.split, which left them out"
        if index.rejected:
            mend = f"mend the rows, named in {rejects}"
        raise InputError(
            f"the {split} split is empty: no usable row among {left.total()}{why}",
            key=f"data.{split}",
            mend=mend,
        )
    share = index.rejected / (total + sum(index.dropped.values()))
    if share > limit:
        raise InputError(
            f"{index.rejected} of {total} {split} rows are bad ({_most_common(Counter(index.rejects))}), more than "
            f"the share of {limit:g} that a run tolerates",
            key="data.max_rejects",
            value=limit,
            mend=f"mend the rows of data.{split} (named in {rejects}), or data.max_rejects: {_above(share)}",
        )


def _most_common(reasons: Counter[str]) -> str:
    said = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(REASONS_SHOWN))
    more = len(reasons) - REASONS_SHOWN
    return f"{said}, and {more} more kind{'s' if more > 1 else ''}" if more > 0 else said


def _above(share: float) -> str:
    """The share in two digits, rounded up: what would let the rows pass."""
    digits = max(2, 1 - math.floor(math.log10(share)))
    return f"{min(math.ceil(share * 10**digits) / 10**digits, 1.0):g}"
