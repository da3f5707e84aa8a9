"""Checks that an indexed split has rows that can be used for training or validation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data.index.membership import SplitIndex
from medray.data.index.row_index import MOST_TYPES
from medray.data.index.sources import FileSource, Source, extraction_of
from medray.data.printable import type_names
from medray.data.readers.sniff import what_is_wrong
from medray.errors import InputError
from medray.storage import StoragePath

REASONS_SHOWN = 3
# Reason for leaving good rows out → the key of the stage, and a fix.
STAGES = {
    "in a benchmark": (
        "data.decontaminate",
        "set data.decontaminate to other benchmark files, or use training data that is not in them",
    ),
    "too long": ("data.drop_longer_than", "set data.drop_longer_than to a larger number, or remove the key"),
    "duplicate": ("data.duplicates", "set data.duplicates: keep"),
    "not in the subsample": ("data.subsample", "set data.subsample to a larger share"),
    "in validation too": (
        "data.leakage",
        "use training rows that are not in validation, or set data.leakage: allow",
    ),
}


def check_split(config: Config, split: str, index: SplitIndex, rejects: StoragePath) -> None:
    """Raise InputError if a split cannot be used: too many bad rows, no rows, or rows without a column that is needed.

    The method and the metrics of the config decide which columns are needed.
    """
    good = index.rows + sum(index.dropped.values())
    check_reading(config, split, good, Counter(index.rejects), rejects)
    if not index.rows:
        raise _emptied(split, index)
    if split == "train":
        _check_labels(config, index)
    there = {"rationale": index.with_rationale}  # rows with a field that not every row must have
    for column in spec_of(config.method).columns:
        if not column.every_row and not there[column.name]:
            raise InputError(
                f"{column.why} a {column.name}, but no {split} row has one",
                key=f"data.columns.{column.name}",
                value=getattr(config.data.columns, column.name),
                fix=f"set data.columns.{column.name}, or set {column.without}",
            )
    missing = index.rows - index.with_entities
    if split == "validation" and "entity_f1" in config.eval.metrics and missing:
        raise InputError(
            f"{missing} of {index.rows} validation rows have no entities",
            key="eval.metrics",
            value="entity_f1",
            fix="set data.columns.entities to the column with the entities, or remove the metric entity_f1",
        )


def check_reading(
    config: Config,
    split: str,
    good: int,
    reasons: Counter[str],
    rejects: StoragePath,
    sources: Sequence[Source] = (),
) -> None:
    """Raise InputError if the sources of a split have no good row, or too many bad ones.

    This is checked before rows are split, compared or dropped, so that these steps cannot be the reason. good: number
    of rows that are records. reasons: number of bad rows by reason. sources: what was read; if nothing in it is a row,
    the error says what is probably wrong with the whole file.
    """
    bad, limit = reasons.total(), config.data.max_rejects
    if not good:
        why = f" ({_most_common(reasons)})" if bad else ""
        for source in sources:
            if isinstance(source, FileSource) and (wrong := what_is_wrong(source.path, source.format)):
                raise InputError(
                    f"the {split} split is empty, because no row of {source.name} can be used{why}: {wrong[0]}",
                    key=f"data.{split}",
                    fix=wrong[1],
                )
        raise InputError(
            f"the {split} split is empty: no usable row among {bad}{why}",
            key=f"data.{split}",
            fix=f"fix the rows that are listed in {rejects}"
            if bad
            else f"set data.{split} to a source that has rows",
        )
    share = bad / (good + bad)
    if share > limit:
        raise InputError(
            f"{bad} of {good + bad} {split} rows are bad ({_most_common(reasons)}), more than "
            f"the share of {limit:g} that a run accepts",
            key="data.max_rejects",
            value=limit,
            fix=f"fix the rows of data.{split} (listed in {rejects}), or set data.max_rejects: {_above(share)}",
        )


def _emptied(split: str, index: SplitIndex) -> InputError:
    """Return the error for a split whose good rows were all left out; the last reason is the stage that took the rest."""
    counts = ", ".join(f"{reason}: {count}" for reason, count in index.dropped.items())
    reason = list(index.dropped)[-1] if index.dropped else ""
    key, fix = STAGES.get(reason, (f"data.{split}", f"set data.{split} to a source that has rows"))
    return InputError(
        f"the {split} split is empty: all of its {sum(index.dropped.values())} good rows were left out ({counts})",
        key=key,
        fix=fix,
    )


def _check_labels(config: Config, index: SplitIndex) -> None:
    """Raise InputError for entity types that no row has, or if all labels are empty: a model would learn to find nothing."""
    asked = extraction_of(config)
    kind = "entity" if asked.answer == "entities" else "relation"
    # The types of a published corpus come from its preset, and a part of its files may lack some.
    unknown = [name for name in config.data.extraction.types if name not in index.types]
    # Pairs are no documents: with stages, the key is that of the stages before and after.
    pairs = spec_of(config.method).needs_in_every_row("rejected")
    if unknown and not pairs and len(index.types) < MOST_TYPES and index.knows_labels:
        known = type_names(index.types)
        there = known or f"{len(index.types)} types, whose names are not shown because they look like values"
        raise InputError(
            f"no {kind} of a training row has the type {', '.join(unknown)}",
            key="data.extraction.types",
            value=list(asked.types),
            fix=f"set data.extraction.types to types of the training rows: {there}"
            if index.types
            else f"remove this key, because no training row has a {kind} with a type",
        )
    if index.empty_labels == index.rows:
        raise InputError(
            f"all {index.rows} training labels are empty"
            + (f", because no document has a matching {kind}" * bool(index.types)),
            key="data.columns.label" if not index.types else "data.extraction",
            fix="set data.columns.label to the column with the answers, or data.extraction.types to other types",
        )


def one_label(index: SplitIndex) -> str | None:
    """Return a warning if all training rows have the same label, else None."""
    if not index.one_label or index.rows < 2:
        return None
    return (
        f"all {index.rows} training labels are the same text, which a model can learn without reading the input; "
        "check data.columns.label"
    )


def missing_ids(indexes: Mapping[str, SplitIndex]) -> str | None:
    """Return a warning if ids in the file of `data.split.validation_ids` are those of no row, else None."""
    count = sum(index.missing_ids for index in indexes.values())
    if not count:
        return None
    return f"ids in data.split.validation_ids that no good row has: {count:,}"


def _most_common(reasons: Counter[str]) -> str:
    said = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(REASONS_SHOWN))
    more = len(reasons) - REASONS_SHOWN
    return f"{said}, and {more} more kind{'s' if more > 1 else ''}" if more > 0 else said


def _above(share: float) -> str:
    """Return the share with two digits, rounded up, so that the rows are accepted."""
    digits = max(2, 1 - math.floor(math.log10(share)))
    return f"{min(math.ceil(share * 10**digits) / 10**digits, 1.0):g}"
