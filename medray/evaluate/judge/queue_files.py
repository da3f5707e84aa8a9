"""The queue for people: disputed items as CSV and JSON lines with an empty column `human_verdict`, and back again.

A person fills the column in either file. The next `medray judge` or `medray judge review` adds what is new to the state and
writes both files again. The state keeps every decision, so a file that is removed or saved in an old form loses none.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.evaluate.judge.rows import Row, figures, read_rows, with_decisions, write_rows
from medray.evaluate.judge.state import Decided, State, locked
from medray.evaluate.judge.verdicts import WORDS, word

CSV, JSONL, REPORT = "queue.csv", "queue.jsonl", "report.json"
FILE_BYTES = 4 << 30
_LOCK, _WRITTEN = ".queue.lock", ".queue.json"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters that a spreadsheet would run as a formula
csv.field_size_limit(1 << 26)


def finish(folder: Path, rows: Sequence[Row] | None, state: State) -> dict[str, Any]:
    """Merge what people filled in, write results, queue and report, and return the figures.

    rows: of all items; None for those of the results that are there. Several processes may do this at once. Raises InputError for a filled cell that is no verdict; then nothing is written.
    """
    with locked(folder / _LOCK):
        _merge(folder, state)
        found = with_decisions(read_rows(folder) if rows is None else rows, state)
        write_rows(folder, found)
        waiting = [row for row in found if row.state in ("disputed", "resolved")]
        _remember(
            folder, {(row.item.id, row.content): row.human_verdict for row in waiting if row.human_verdict}
        )
        storage.write(folder / CSV, _csv(waiting))
        storage.write(folder / JSONL, _jsonl(waiting))
        numbers = figures(found) | {"human_verdicts_changed": state.changed}
        storage.write(folder / REPORT, json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    return numbers


def merge(folder: Path, state: State) -> int:
    """Add the verdicts that people filled into the queue files to the state, and return their number.

    Raises InputError for a cell that is no verdict, and if both files give different new verdicts for one item.
    """
    with locked(folder / _LOCK):
        return _merge(folder, state)


def _merge(folder: Path, state: State) -> int:
    """Do the work of `merge`. A cell that has not changed since the last time is no new decision: the state may have a later one."""
    state.refresh()
    written = _written(folder)
    new: dict[tuple[str, str], Decided] = {}
    for name, cells in ((CSV, _csv_cells(folder / CSV)), (JSONL, _jsonl_cells(folder / JSONL))):
        for where, item, content, text, note in cells:
            if not text.strip():
                continue
            verdict = word(text)
            if verdict is None:
                raise InputError(
                    "human_verdict is no verdict",
                    file=where,
                    fix=f"use {', '.join(WORDS)}, or leave it empty",
                )
            known, other = state.decided.get((item, content)), new.get((item, content))
            if known is not None and verdict in (known.human_verdict, written.get((item, content))):
                continue
            if other is not None and other.human_verdict != verdict:
                raise InputError(
                    f"{CSV} and {JSONL} give different verdicts for one item",
                    file=where,
                    fix="correct one of them",
                )
            new[item, content] = Decided(
                item=item, content=content, human_verdict=verdict, note=note, source=name
            )
    if new:
        state.add(*new.values())
        _remember(folder, written | {key: one.human_verdict for key, one in new.items()})
    return len(new)


def _remember(folder: Path, verdicts: Mapping[tuple[str, str], str]) -> None:
    storage.write(folder / _WRITTEN, json.dumps([[*key, verdict] for key, verdict in verdicts.items()]))


def _written(folder: Path) -> dict[tuple[str, str], str]:
    """Return the verdicts in the queue files when medray last wrote or read them, by item and content."""
    path, fix = folder / _WRITTEN, "remove the file: it is written again"
    try:
        data = storage.read_bounded(path, FILE_BYTES, fix=fix)
    except FileNotFoundError:
        return {}
    try:
        return {(str(item), str(content)): str(verdict) for item, content, verdict in json.loads(data)}
    except (ValueError, TypeError):
        raise InputError("is not readable", file=path, fix=fix) from None


def _cells(row: Row) -> dict[str, str]:
    first, second = row.judges
    return {
        "id": row.item.id,
        "state": row.state,
        "human_verdict": row.human_verdict or "",
        "note": row.note,
        f"verdict_{first}": row.verdicts[first] or "unreadable",
        f"verdict_{second}": row.verdicts[second] or "unreadable",
        f"reason_{first}": row.reasons[first],
        f"reason_{second}": row.reasons[second],
        "input": row.item.input,
        "answer": row.item.answer,
        "gold": row.item.gold or "",
        "content": row.content,
    }


def _csv(rows: Sequence[Row]) -> bytes:
    """Return the CSV file: UTF-8 with a mark, which spreadsheets need, and texts that they do not run as formulas."""
    stream = io.StringIO()
    cells = [{name: _guarded(text) for name, text in _cells(row).items()} for row in rows]
    names = list(cells[0]) if cells else ["id", "state", "human_verdict", "note"]
    writer = csv.DictWriter(stream, names)
    writer.writeheader()
    writer.writerows(cells)
    return stream.getvalue().encode("utf-8-sig", "replace")


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) or text.startswith("'") else text


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") else text


def _jsonl(rows: Sequence[Row]) -> bytes:
    lines = (json.dumps(_cells(row), ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "surrogatepass")


Cell = tuple[str, str, str, str, str]  # where, item, content, human_verdict, note


def _csv_cells(path: Path) -> Iterator[Cell]:
    fix = "save it as CSV in UTF-8 with its columns id, content and human_verdict, or remove it: it is written again"
    try:
        text = storage.read_bounded(path, FILE_BYTES, fix=fix).decode("utf-8-sig")
        sample = text.partition("\n")[0]
        separator = max(",;\t", key=sample.count)  # spreadsheets of many countries write semicolons
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        rows = list(reader)
    except FileNotFoundError:
        return
    except (UnicodeDecodeError, csv.Error):
        raise InputError("is not readable CSV", file=path, fix=fix) from None
    if rows and not {"id", "content", "human_verdict"} <= set(rows[0]):
        raise InputError("lacks a column of the queue", file=path, fix=fix)
    for number, row in enumerate(rows, 2):
        values = [_unguarded(row.get(name) or "") for name in ("id", "content", "human_verdict", "note")]
        yield f"{path}, row {number}", values[0], values[1], values[2], values[3]


def _jsonl_cells(path: Path) -> Iterator[Cell]:
    fix = "correct the line, or remove the file: it is written again"
    try:
        data = storage.read_bounded(path, FILE_BYTES, fix=fix)
    except FileNotFoundError:
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = storage.parse_json(line, where, fix=fix)
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or "content" not in row:
            raise InputError("is not a row of the queue", file=where, fix=fix)
        verdict, note = row.get("human_verdict"), row.get("note")
        yield where, row["id"], str(row["content"]), str(verdict or ""), str(note or "")
