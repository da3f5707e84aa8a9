"""Comparison of texts: normalised text, hashes of texts, and word sequences that are shared with a benchmark."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from medray.data.records import Distill, Extraction, Instruction, Preference, Record, TwoStep

RUN_WORDS = 13  # as in the n-gram decontamination of published language models
_SHORTEST_FIELD = 6  # fewest words of a benchmark field that is compared as a whole; "yes" is everywhere
_LOWER, _BLANKS = bytes(range(256)).lower(), b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f "
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def question_and_answer(record: Record) -> tuple[str, str]:
    """Return the text that a model reads of a record and the text that it writes, as plain text."""
    if isinstance(record, Distill):
        return record.input, record.label
    if isinstance(record, Instruction):
        asked = (turn.content for turn in record.messages[:-1] if turn.role != "system")
        return "\n".join(asked), record.messages[-1].content
    if isinstance(record, TwoStep):
        return record.first_input, record.label
    if isinstance(record, Extraction):
        return " ".join(record.passages), ""
    if isinstance(record, Preference):
        return "\n".join(turn.content for turn in record.prompt), f"{record.chosen}\n{record.rejected}"
    raise TypeError(type(record).__name__)


def texts(record: Record) -> Iterator[str]:
    """Yield every text of a record that a model may read or write. A new tokenizer is trained on these texts."""
    if isinstance(record, Instruction):
        yield from (turn.content for turn in record.messages)
        return
    yield from question_and_answer(record)
    if isinstance(record, TwoStep):
        yield record.second_input
    rationale = record.rationale if isinstance(record, Distill | TwoStep) else None
    if isinstance(rationale, str):
        yield rationale
    elif rationale is not None:
        yield from filter(None, rationale.values() if isinstance(rationale, Mapping) else rationale)


def normalised(text: str) -> str:
    """Return text without differences in case, blanks and Unicode forms, so that equal texts can be found."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def same_text(text: str) -> bytes:
    """Return bytes that are equal for two texts if `normalised` makes them equal. This is four times as fast."""
    if text.isascii():
        return text.encode().translate(_LOWER, _BLANKS)
    return "".join(unicodedata.normalize("NFKC", text).casefold().split()).encode("utf-8", "surrogatepass")


def bytes_hash(data: bytes) -> int:
    """Return a 64-bit hash of `data`."""
    return int(xxh3_64_intdigest(data))


def text_hash(text: str) -> int:
    """Return a 64-bit hash of `text`; two different texts have equal hashes once in 10^19 pairs."""
    return int(xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")))


def word_runs(text: str) -> np.ndarray:
    """Return the hashes of all sequences of RUN_WORDS words in a normalised text, uint64."""
    return run_hashes(text.split(" "), RUN_WORDS)


def run_hashes(words: Sequence[str], length: int) -> np.ndarray:
    """Return a hash of every sequence of `length` consecutive words, in order; uint64 [max(len(words) - length + 1,
    0)].
    """
    hashes = np.array([text_hash(word) for word in words], np.uint64)
    runs = np.zeros(max(len(hashes) - length + 1, 0), np.uint64)
    with np.errstate(over="ignore"):
        for start in range(length):
            runs = runs * _FACTOR + hashes[start : start + len(runs)]
    return runs


class Benchmarks:
    """The texts of benchmark files, which training data must not contain, as hashes of word sequences and of short
    fields.
    """

    def __init__(self, runs: np.ndarray, fields: np.ndarray) -> None:
        self._runs, self._fields = runs, fields  # both sorted

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> Benchmarks:
        runs: list[np.ndarray] = [np.empty(0, np.uint64)]
        fields: list[int] = []
        for row in rows:
            for field in _fields(row):
                text = normalised(field)
                if len(found := word_runs(text)):
                    runs.append(found)
                elif text.count(" ") + 1 >= _SHORTEST_FIELD:
                    fields.append(bytes_hash(same_text(field)))
        return cls(np.unique(np.concatenate(runs)), np.unique(np.array(fields, np.uint64)))

    def hold(self, question: str, answer: str) -> bool:
        """Return whether a record shares a word sequence with a benchmark, or its question is a short field of one."""
        hashed = np.array([bytes_hash(same_text(question))], np.uint64)
        return _any_in(hashed, self._fields) or any(
            _any_in(word_runs(normalised(text)), self._runs) for text in (question, answer)
        )


def _fields(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value at any depth, in order."""
    left = [value]
    while left:
        match left.pop():
            case str(text):
                yield text
            case dict(items):
                left += reversed(items.values())
            case list(items) | tuple(items):
                left += reversed(items)


def _any_in(values: np.ndarray, known: np.ndarray) -> bool:
    if not len(values) or not len(known):
        return False
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return bool((known[places] == values).any())
