"""The reader of Parquet files, one row group at a time.

Its conversion of Arrow tables is also used for saved data sets.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from medray.data.printable import column_name
from medray.data.records import BadRowError, Found, Row
from medray.errors import InputError

_BATCH_ROWS, _BATCH_BYTES = 512, 64 << 20
LONGEST_CELL = 64 << 20  # characters


def read(stream: io.BufferedReader, name: str, start: int, stop: int | None, line: int) -> Iterator[Found]:
    """Yield the rows with numbers start … stop - 1; positions and lines are row numbers.

    Only their row groups are read.
    """
    import pyarrow as pa

    file = _opened(stream, name)
    groups, first, before = [], None, 0
    for group in range(file.metadata.num_row_groups):
        after = before + file.metadata.row_group(group).num_rows
        if after > start and (stop is None or before < stop):
            groups.append(group)
            first = before if first is None else first
        before = after
    number = first or 0
    try:
        for batch in file.iter_batches(_batch_rows(file.metadata), row_groups=groups):
            ahead = min(max(0, start - number), batch.num_rows)
            number += ahead
            for row in rows(batch.slice(ahead)):
                if stop is not None and number >= stop:
                    return
                yield Found(number, number + 1, row)
                number += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(name, f"after row {number}", error) from None


def ranges(stream: io.BufferedReader, name: str, block_bytes: int) -> list[tuple[int, int | None]]:
    """Split the file into ranges of whole row groups, each with about `block_bytes` (decoded) or more, in row numbers."""
    metadata = _opened(stream, name).metadata
    found: list[tuple[int, int | None]] = []
    begin, end, held = 0, 0, 0
    for group in range(metadata.num_row_groups):
        end += metadata.row_group(group).num_rows
        held += metadata.row_group(group).total_byte_size
        if held >= block_bytes:
            found.append((begin, end))
            begin, held = end, 0
    if end > begin or not found:
        found.append((begin, end))
    return found


def rows(batch: Any) -> Iterator[Row]:
    """Yield the rows of an Arrow batch or table as JSON values.

    Times become ISO 8601 text, decimals become text, and a row with bytes is a bad row.
    """
    doubtful = [field.name for field in batch.schema if not _plain(field.type)]
    for row in _python_rows(batch):
        if isinstance(row, BadRowError):
            yield row
            continue
        try:
            for name in doubtful:
                row[name] = _as_json(row[name], name)
            if any(isinstance(value, str) and len(value) > LONGEST_CELL for value in row.values()):
                raise BadRowError(f"a cell longer than {LONGEST_CELL >> 20} MB")
        except BadRowError as error:
            yield error
        else:
            yield row


def _python_rows(batch: Any) -> Iterator[dict[str, Any] | BadRowError]:
    """Yield rows as Python values. A row with a value out of Python's range, such as the year 10000, is a bad row."""
    import pyarrow as pa

    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError, pa.ArrowException):
        pass
    for number in range(batch.num_rows):
        row: dict[str, Any] = {}
        bad: BadRowError | None = None
        for name in batch.schema.names:
            try:
                row[name] = batch.column(name)[number].as_py()
            except (ValueError, OverflowError, pa.ArrowException):
                bad = BadRowError(f"{column_name(name)} holds a value out of range, such as a date")
                break
        yield bad or row


def _batch_rows(metadata: Any) -> int:
    """Return the number of rows for which a batch of the group with the longest rows has about _BATCH_BYTES."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0.0)
    return int(min(_BATCH_ROWS, max(1.0, _BATCH_BYTES / max(longest, 1.0))))


def _opened(stream: io.BufferedReader, name: str) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(stream)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(name, "in its footer", error) from None
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise InputError(
            "two columns of the file have the same name", file=name, fix="rename one of the two columns"
        )
    return file


def _damaged(name: str, where: str, error: Exception) -> InputError:
    return InputError(
        f"this is not a complete Parquet file: it is damaged {where} ({type(error).__name__})",
        file=name,
        fix="copy it again",
    )


def _plain(kind: Any) -> bool:
    """Return whether every value of an Arrow type is a JSON value."""
    from pyarrow import types

    scalar: tuple[Callable[[Any], bool], ...] = (
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_null,
        types.is_string,
        types.is_large_string,
        types.is_string_view,
    )
    if any(is_kind(kind) for is_kind in scalar):
        return True
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _plain(kind.value_type)
    if types.is_struct(kind):
        return all(_plain(field.type) for field in kind)
    return types.is_dictionary(kind) and _plain(kind.value_type)


def _as_json(value: Any, column: str) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {name: _as_json(each, column) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each, column) for each in value]
    if isinstance(value, date | time):  # a datetime is a date too
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise BadRowError(f"{column_name(column)} holds {type(value).__name__}, which is not a JSON type")
