"""The input of a prediction job: data files named on the command line, or a split of a config, divided into parts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.data

from medray import storage
from medray.config import Config
from medray.config.columns import ColumnsConfig
from medray.config.data import SourceConfig
from medray.data import corpora
from medray.data.index.sources import CLINIC_COLUMNS, Source, sources
from medray.data.printable import column_names
from medray.data.row_text import is_there
from medray.data.schemas import form_of
from medray.data.shards.pipeline import quiet_ray_data
from medray.errors import InputError
from medray.evaluate.prediction.rows import Part, RangeUnits, index_range, parts_of
from medray.storage import StoragePath

CONVERTED, REJECTS = "converted", "rejects.jsonl"
FEWEST_PARTS = 8  # per worker, so that workers end at about the same time
FEWEST_BATCHES, MOST_ROWS = 4, 512  # of a part


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexed:
    """The parts of an input, and its bad rows."""

    parts: tuple[Part, ...]
    rejected: int


def named_sources(paths: Sequence[str], config: Config) -> tuple[Source, ...]:
    """Return the sources for files named by the user, read with the columns of the config or of its training data.

    Raises InputError if a file is missing, empty or of an unknown format.
    """
    columns, form = _columns(config)
    entries = tuple(
        SourceConfig(path=path if "://" in path else os.path.abspath(path), form=form, columns=columns)
        for path in paths
    )
    changed = {"train": entries, "validation": (), "dataset": None}
    try:
        return sources(config.model_copy(update={"data": config.data.model_copy(update=changed)}), "train")
    except InputError as error:
        key = "DATA" if error.key == "data.train" else error.key
        raise InputError(error.what, file=error.file, key=key, value=error.value, fix=error.fix) from None


def split_sources(config: Config, split: str) -> tuple[Source, ...]:
    """Return the sources of a split of the config's data. Raises InputError if it has none."""
    named = split in ("train", "validation") or config.data.dataset not in (None, "clinic")
    found = sources(config, split) if named else ()
    if not found:
        raise InputError(
            f"the config has no {split} data of its own",
            key="DATA",
            fix="name the files to predict, such as `medray predict RUN new.jsonl --to out`",
        )
    return found


def _columns(config: Config) -> tuple[ColumnsConfig, Any]:
    """Return the columns and the form in which training read its rows, unless the config states columns itself."""
    data = config.data
    if "columns" in data.model_fields_set:
        return data.columns, "auto"
    if data.dataset == "clinic":
        return CLINIC_COLUMNS, "auto"
    if data.dataset is not None:
        return corpora.presets(data.dataset).columns, "auto"
    first = data.train[0] if data.train else None
    if first is not None and all(
        (each.columns, each.form) == (first.columns, first.form) for each in data.train
    ):
        return first.columns or data.columns, first.form
    return data.columns, "auto"


def facts_of(found: Sequence[Source]) -> dict[str, Any]:
    """Return facts for the manifest: the content of each source and how it is read."""
    facts: dict[str, Any] = {
        f"input {number + 1}, {source.name}": source.content_hash() for number, source in enumerate(found)
    }
    return facts | {
        "columns": json.dumps(
            [[source.form, source.columns.model_dump()] for source in found], sort_keys=True
        )
    }


def plain_sources(found: Sequence[Source], folder: StoragePath) -> tuple[Source, ...]:
    """Return sources that can be read from any position. Others are converted once, into the folder of the job."""
    plain = []
    for number, source in enumerate(found):
        if source.positional:
            plain.append(source)
            continue
        target = folder / CONVERTED / f"{number:03d}.jsonl"
        if not target.exists():
            if isinstance(target, Path):
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            staging = target.with_name(f".{target.name}")
            source.convert(staging)
            storage.move(staging, target)
        plain.append(source.plain_at(target))
    return tuple(plain)


def index_inputs(
    found: Sequence[Source],
    folder: StoragePath,
    *,
    most_bad: float,
    part_rows: int | None,
    shape: tuple[int, int],
) -> Indexed:
    """Index the sources by a Ray Data job, write the bad rows to the folder, and return the parts.

    most_bad: largest share of bad rows (`data.max_rejects`). part_rows: None to choose by `shape`: (workers, batch size).
    Raises InputError if no row can be predicted, or too many are bad.
    """
    ranges = _indexed(found)
    usable = sum(unit[2] for source in ranges for each in source for unit in each.units)
    reasons = sum((each.reasons for source in ranges for each in source), Counter[str]())
    rejects = [reject for source in ranges for reject in _from_the_top(source)]
    storage.write(folder / REJECTS, "".join(json.dumps(reject) + "\n" for reject in rejects))
    bad = reasons.total()
    for source, members in zip(found, ranges, strict=True):
        if not any(unit[2] for each in members for unit in each.units):
            _check_input(source, members)
    said = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(3))
    if not usable:
        raise InputError(
            f"no row can be predicted: {said}" if bad else "there is no row to predict",
            key="DATA",
            fix=f"fix the rows that are listed in {folder / REJECTS}" if bad else "name a file that has rows",
        )
    if bad / (bad + usable) > most_bad:
        raise InputError(
            f"{bad} of {bad + usable} rows are bad ({said}), more than the share of {most_bad:g} that is accepted",
            key="data.max_rejects",
            value=most_bad,
            fix=f"fix the rows (listed in {folder / REJECTS}), or set data.max_rejects to a larger share",
        )
    workers, batch_size = shape
    size = part_rows or default_part_rows(usable, workers, batch_size)
    return Indexed(parts=tuple(parts_of(ranges, size)), rejected=bad)


def default_part_rows(rows: int, workers: int, batch_size: int) -> int:
    """Return the number of rows of a part: few enough for a short wait at the end, many enough for sorted batches."""
    fewest = FEWEST_BATCHES * batch_size
    return min(max(rows // (FEWEST_PARTS * workers), fewest), max(MOST_ROWS, fewest))


def _indexed(found: Sequence[Source]) -> list[list[RangeUnits]]:
    """Index every range of every source in Ray Data tasks."""
    quiet_ray_data()
    items = [
        {"source": number, "range": place, "start": start, "stop": -1 if stop is None else stop}
        for number, source in enumerate(found)
        for place, (start, stop) in enumerate(source.ranges())
    ]
    if not items:
        return [[] for _ in found]

    def one(item: dict[str, Any]) -> dict[str, Any]:
        key = {"source": item["source"], "range": item["range"], "units": "", "input_error": ""}
        try:
            stop = None if item["stop"] < 0 else item["stop"]
            units = index_range(found[item["source"]], item["start"], stop)
        except InputError as error:
            return key | {"input_error": json.dumps(error.args, default=str)}
        tree = {
            "units": units.units,
            "lines": units.lines,
            "rejects": units.rejects,
            "reasons": units.reasons,
            "columns_seen": sorted(units.columns_seen),
        }
        return key | {"units": json.dumps(tree)}

    made: dict[tuple[int, int], RangeUnits] = {}
    data = ray.data.from_items(items, override_num_blocks=len(items)).map(one, num_cpus=0.5)
    for row in data.iter_rows():
        if row["input_error"]:
            what, file, key, value, fix = json.loads(row["input_error"])
            raise InputError(what, file=file, key=key, value=value, fix=fix)
        tree = json.loads(row["units"])
        made[row["source"], row["range"]] = RangeUnits(
            units=tree["units"],
            lines=tree["lines"],
            rejects=tree["rejects"],
            reasons=Counter(tree["reasons"]),
            columns_seen=frozenset(tree["columns_seen"]),
        )
    return [[made[key] for key in sorted(made) if key[0] == number] for number in range(len(found))]


def _from_the_top(ranges: Sequence[RangeUnits]) -> list[dict[str, Any]]:
    """Return the rejects of a source with lines counted from the start of its file."""
    before, found = 0, []
    for each in ranges:
        found += [reject | {"line": reject["line"] + before} for reject in each.rejects]
        before += each.lines
    return found


def _check_input(source: Source, ranges: Sequence[RangeUnits]) -> None:
    """Raise InputError if no row of a source has the input column."""
    seen = frozenset().union(*(each.columns_seen for each in ranges))
    if not seen or source.form not in ("auto", "columns"):
        return
    if source.form == "auto" and form_of(dict.fromkeys(seen), source.columns) != "columns":
        return
    missing = next((name for name in source.columns.named_by("input") if not is_there(name, set(seen))), None)
    if missing is None:
        return
    shown = column_names(seen)
    raise InputError(
        f"{source.name} has no column of this name" + ("" if shown else "; its columns are not shown"),
        key="data.columns.input",
        value=missing,
        fix=f"set data.columns.input to one of its columns: {shown}"
        if shown
        else "set data.columns.input to the name of the column with the text",
    )
