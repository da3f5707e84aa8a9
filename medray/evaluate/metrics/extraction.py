"""Metrics of extraction: entities and relations that an answer lists, against those of the reference.

An answer is a JSON list: of strings or {"text", "type"} for entities, of [first, second], [first, second, type] or
{"first", "second", "type"} for relations. That is the answer that `data.extraction` trains. Texts are compared in lower
case with single blanks, as sets, so a repeated item counts once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medray.evaluate.metrics.measured import Measured, Numbers, micro_f1, ratio, typed_classes
from medray.evaluate.metrics.rows import MetricError, Rows, Settings
from medray.evaluate.words import lower, normalised

Item = tuple[tuple[str, ...], str]  # the compared texts, and the type or ""
Items = frozenset[Item]

LONGEST_ANSWER = 200_000  # characters that are searched for a list
_FIRST_KEYS = ("first", "arg1", "head", "subject")
_SECOND_KEYS = ("second", "arg2", "tail", "object")
_TYPE_KEYS = ("type", "label", "relation")
_BULLET = re.compile(r"\s*(?:[-*•]|\d{1,3}[.)])\s+")
_ICD = re.compile(r"\b([A-TV-Z][0-9][0-9AB](?:\.?[0-9A-Z]{1,4})?)\b")
_NOTHING = ("", "none", "none.", "n/a", "[]")


def ner_f1(rows: Rows, settings: Settings) -> Measured:
    """Return micro precision, recall and F1 over the entities of all rows, and the share of unparsed answers.

    An unparsed answer counts as an empty list. `ner_exact` is the share of rows whose sets are equal.
    """
    return _extraction("ner", rows, parse_entities, settings)


def re_f1(rows: Rows, settings: Settings) -> Measured:
    """Return the numbers of `ner_f1` for relations. settings.ordered: whether the order of a pair counts."""

    def parse(text: str) -> Items | None:
        found = parse_relations(text)
        if found is None or settings.ordered:
            return found
        return frozenset((tuple(sorted(pair)), kind) for pair, kind in found)

    return _extraction("re", rows, parse, settings)


def icd_f1(rows: Rows, settings: Settings) -> Measured:
    """Return micro F1 of the ICD-10 codes that answers name, and of their first three characters."""
    exact, prefix = (
        [
            [len(have & want), len(have), len(want)]
            for have, want in (
                (_codes(said, length), _codes(truth.text, length))
                for said, truth in zip(rows.said, rows.truths, strict=True)
            )
        ]
        for length in (None, 3)
    )
    if not sum(row[2] for row in exact):
        raise MetricError(
            "no reference names an ICD-10 code", "use references with codes such as I10 or E11.9"
        )
    one, other = micro_f1("icd", exact), micro_f1("icd_prefix", prefix)
    return Measured(
        statistics=np.column_stack([one.statistics, other.statistics]),
        numbers=lambda sums: one.numbers(sums[..., :3]) | other.numbers(sums[..., 3:]),
    )


def parse_entities(text: str) -> Items | None:
    """Return the entities of an answer: of its first JSON list, else one per line; None if it is neither.

    A text of several lines, or a line with a bullet, is a list of lines; "none" and an empty text are empty lists.
    """
    found = _first_list(text, _entity)
    if found is not None:
        return found
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 and not (lines and _BULLET.match(lines[0])):
        return frozenset() if text.strip().lower() in _NOTHING else None
    return frozenset(_clean([((_BULLET.sub("", line, count=1),), "") for line in lines]))


def parse_relations(text: str) -> Items | None:
    """Return the relations of the first JSON list of an answer; None if there is none."""
    found = _first_list(text, _relation)
    return frozenset() if found is None and text.strip().lower() in _NOTHING else found


def _extraction(
    prefix: str, rows: Rows, parse: Callable[[str], Items | None], settings: Settings
) -> Measured:
    wanted = [_reference(truth.text, parse) for truth in rows.truths]
    if None in wanted:
        raise MetricError(
            f"{prefix}_f1 needs a JSON list in every reference, but {wanted.count(None)} of {len(wanted)} have none "
            f"(the first is row {wanted.index(None) + 1})",
            'use references such as ["aspirin", "fever"]'
            if prefix == "ner"
            else 'use references such as [["aspirin", "ulcer"]]',
        )
    found = [parse(said) for said in rows.said]
    counts, tables = [], [Counter[str]() for _ in range(3)]
    for have, want in zip(found, wanted, strict=True):
        assert want is not None
        wanted_items, items = _compared(want, settings), _compared(have or frozenset(), settings)
        equal = have is not None and items == wanted_items
        counts.append([len(items & wanted_items), len(items), len(wanted_items), have is None, equal, 1])
        known = dict(want)
        # Without types in an answer, a right item has the type of the reference.
        typed = [(texts, kind or known.get(texts, "")) for texts, kind in have or ()]
        for table, kinds in zip(
            tables,
            ([k for _, k in want], [k for _, k in typed], [k for t, k in typed if known.get(t) == k]),
            strict=True,
        ):
            table.update(kinds)
    classes = typed_classes(*tables) if any(tables[0]) else {}
    basis = micro_f1(prefix, [row[:3] for row in counts])

    def numbers(sums: np.ndarray) -> Numbers:
        return basis.numbers(sums[..., :3]) | {
            f"{prefix}_exact": ratio(sums[..., 4], sums[..., 5]),
            f"{prefix}_unparsed": ratio(sums[..., 3], sums[..., 5]),
        }

    return Measured(statistics=np.array(counts, np.float64), numbers=numbers, classes=classes)


def _compared(items: Items, settings: Settings) -> Items:
    return items if settings.typed else frozenset((texts, "") for texts, _ in items)


def _reference(text: str, parse: Callable[[str], Items | None]) -> Items | None:
    """Return the items of a reference, which must be a JSON list or empty: a text of lines may be something else."""
    return parse(text) if not text.strip() or text.strip().startswith("[") else None


def _first_list(text: str, item: Callable[[Any], Item | None]) -> Items | None:
    """Return the items of the first JSON list in `text` whose entries are all items; None if there is none."""
    decoder = json.JSONDecoder()
    text, begin = text[:LONGEST_ANSWER], 0
    for _ in range(20):  # lists that are tried; an answer with more brackets is no list
        begin = text.find("[", begin)
        if begin < 0:
            return None
        try:
            value, _ = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            begin += 1
            continue
        made = [item(each) for each in value]
        if None not in made:
            return frozenset(_clean([each for each in made if each is not None]))
        begin += 1
    return None


def _clean(items: Sequence[Item]) -> list[Item]:
    """Return items in the compared form: lower case, NFKC, single blanks. Items with an empty text are left out."""
    made = [(tuple(map(_bare, texts)), kind.strip()) for texts, kind in items]
    return [each for each in made if all(each[0])]


def _bare(text: str) -> str:
    return " ".join(lower(normalised(text)).split())


def _entity(value: Any) -> Item | None:
    if isinstance(value, str):
        return (value,), ""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return (value["text"],), _type(value)
    return None


def _relation(value: Any) -> Item | None:
    if isinstance(value, dict):
        pair = [
            next((value[key] for key in keys if key in value), None) for keys in (_FIRST_KEYS, _SECOND_KEYS)
        ]
        kind = _type(value)
    elif isinstance(value, list) and len(value) in (2, 3):
        pair, kind = value[:2], value[2] if len(value) == 3 else ""
    else:
        return None
    if not isinstance(kind, str) or not all(isinstance(each, str) for each in pair):
        return None
    return tuple(map(str, pair)), kind


def _type(value: dict[str, Any]) -> str:
    return next((value[key] for key in _TYPE_KEYS if isinstance(value.get(key), str)), "")


def _codes(text: str, length: int | None) -> set[str]:
    return {code.replace(".", "")[:length] for code in _ICD.findall(normalised(text).upper())}
