"""What a reader finds."""

from __future__ import annotations

from typing import Any, NamedTuple

from medray.data.records import BadRowError

Row = dict[str, Any] | BadRowError


class Found(NamedTuple):
    """One row of a file.

    position: where reading goes on at this row: a byte of the file; the number of the row, from 0, where the format
    is not read by bytes.
    line: the line on which the row begins, from 1; the number of the row, from 1, where there are no lines.
    file: the original file's name, in the converted format alone.
    """

    position: int
    line: int
    row: Row
    file: str | None = None
