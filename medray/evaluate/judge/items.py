"""The items to judge, read from JSON lines."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medray import storage
from medray.config.judge import JudgeColumnsConfig
from medray.errors import InputError

FILE_BYTES = 16 << 30
INPUTS, ANSWERS, GOLDS = (
    ("input", "prompt", "question"),
    ("answer", "answers", "prediction"),
    ("gold", "reference", "label"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One answer to judge.

    answer, gold: text; a list is its JSON. expected: the right verdict, from the field `gold_verdict`, or whether the
    answer equals gold: then only "correct" and any other verdict are told apart (`exact` is False).
    """

    id: str
    input: str
    answer: str
    gold: str | None = None
    expected: str | None = None
    exact: bool = True

    @property
    def content(self) -> str:
        """Return a hash of the texts: a verdict counts only for the texts that were judged."""
        whole = json.dumps([self.id, self.input, self.answer, self.gold], ensure_ascii=False)
        return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_items(path: str | Path, columns: JudgeColumnsConfig) -> list[Item]:
    """Return the items of a JSON lines file. Raises InputError that names the line of a row that cannot be used."""
    found: dict[str, Item] = {}
    for where, row in _rows(path):
        item = _item(row, columns, where)
        if item.id in found:
            raise InputError("repeats the id of an earlier line", file=where, fix="give each item its own id")
        found[item.id] = item
    if not found:
        raise InputError("contains no items", file=path, key="items", fix="use a file with one item per line")
    return list(found.values())


def _rows(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    fix = "use a JSON lines file with an object per line, such as the output of `medray predict`"
    try:
        with storage.open_bounded(storage.at(path), FILE_BYTES, fix=fix) as (stream, _):
            for number, line in enumerate(stream, 1):
                where = f"{path}, line {number}"
                if not line.strip():
                    continue
                row = storage.parse_json(line, where, fix=fix)
                if not isinstance(row, dict):
                    raise InputError("is not a JSON object", file=where, fix=fix)
                yield where, row
    except OSError as error:
        raise InputError(
            f"cannot be read ({storage.summary(error)})", file=path, key="items", fix="check the path"
        ) from None


def _item(row: Mapping[str, Any], columns: JudgeColumnsConfig, where: str) -> Item:
    def value(own: str | None, names: tuple[str, ...], key: str, *, needed: bool = True) -> Any:
        name = own or next((each for each in names if row.get(each) is not None), None)
        found = row.get(name) if name else None
        if found is None and needed:
            raise InputError(
                f"has no field {own or ' or '.join(names)}",
                file=where,
                fix=f"set columns.{key} to a field of the file: {', '.join(map(str, list(row)[:12]))}",
            )
        return found

    identity = value(columns.id, (), "id")
    if not isinstance(identity, str | int) or isinstance(identity, bool) or not str(identity).strip():
        raise InputError("has an id that is neither text nor a number", file=where, fix="correct the id")
    answer = value(columns.answer, ANSWERS, "answer")
    gold = value(columns.gold, GOLDS, "gold", needed=False)
    expected, exact = row.get(columns.gold_verdict), True
    if expected is not None:
        from medray.evaluate.judge.verdicts import WORDS, word

        if (known := word(expected)) is None:
            raise InputError(
                f"has a {columns.gold_verdict} that is no verdict",
                file=where,
                fix=f"use {', '.join(WORDS)}, or leave the field out",
            )
        expected = known
    elif gold is not None:
        expected, exact = "correct" if same(answer, gold) else "incorrect", False
    return Item(
        id=str(identity),
        input=_text(value(columns.input, INPUTS, "input")),
        answer=_text(answer),
        gold=None if gold is None else _text(gold),
        expected=expected,
        exact=exact,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def same(answer: Any, gold: Any) -> bool:
    """Return whether an answer equals gold, ignoring case, blanks and the order of a list."""
    return parts(answer) == parts(gold)


def parts(value: Any) -> set[str]:
    """Return the entries of a list, or of a text that is one entry, normalized."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = value
        value = found if isinstance(found, list) else value
    return {_plain(_text(each)) for each in (value if isinstance(value, list) else [value])}


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
