"""Assembly of rows of token ids from pieces of text, for all rows of a batch at once."""

from __future__ import annotations

from itertools import chain

import numpy as np

from medray.data.encode.text_ids import Kind, TextIds


class TextTable:
    """A table of the distinct texts in a batch of records and their token ids, so that each text is tokenized only
    once.
    """

    def __init__(self, ids: TextIds) -> None:
        self._ids = ids
        self._numbers: dict[tuple[Kind, str], int] = {}
        self._pending: dict[Kind, list[tuple[int, str]]] = {}
        self._found: list[np.ndarray] = []
        self._total = 0
        self.starts: list[int] = []
        self.lengths: list[int] = []

    def add(self, kind: Kind, text: str) -> int:
        """Add a text and return its number. Its ids are known after the next `tokenize`."""
        number = self._numbers.get((kind, text))
        if number is None:
            number = self._numbers[kind, text] = len(self._numbers)
            self._pending.setdefault(kind, []).append((number, text))
        return number

    def number(self, kind: Kind, text: str) -> int:
        """Return the number of a text, and tokenize it now if necessary, so that its length is known."""
        number = self.add(kind, text)
        if self._pending:
            self.tokenize()
        return number

    def length(self, number: int) -> int:
        """Return the number of token ids of the text with this number."""
        return self.lengths[number]

    def tokenize(self) -> None:
        """Tokenize all texts that were added since the last call."""
        missing = len(self._numbers) - len(self.starts)
        self.starts += [0] * missing
        self.lengths += [0] * missing
        for kind, texts in self._pending.items():
            ids, lengths = self._ids.batch([text for _, text in texts], kind)
            starts = np.cumsum(lengths) - lengths + self._total
            for (number, _), start, length in zip(texts, starts.tolist(), lengths.tolist(), strict=True):
                self.starts[number], self.lengths[number] = start, length
            self._found.append(ids)
            self._total += len(ids)
        self._pending = {}

    def pool(self) -> np.ndarray:
        """Return the ids of all texts in one int32 array. The ids of text n begin at index starts[n]."""
        self._found = [np.concatenate(self._found)] if self._found else [np.empty(0, np.int32)]
        return self._found[0]


class RowIds:
    """A builder of rows of token ids, one row after another: call `add_*` for each piece of a row, then `close`."""

    def __init__(self, table: TextTable) -> None:
        self._table = table
        self._fixed: dict[
            tuple[int, ...], int
        ] = {}  # index of the first id of a fixed piece; fixed pieces precede all texts
        self._fixed_size = 0
        # Per piece: the index of its first id in the table's ids; for a fixed piece, -1 minus the index.
        self._starts: list[int] = []
        self._lengths: list[int] = []
        self._pieces: list[int] = []

    def add_fixed(self, ids: tuple[int, ...]) -> None:
        start = self._fixed.get(ids)
        if start is None:
            start = self._fixed[ids] = self._fixed_size
            self._fixed_size += len(ids)
        self._starts.append(-1 - start)
        self._lengths.append(len(ids))

    def add_text(self, number: int, length: int, first: int = 0) -> None:
        """Add `length` ids of text `number`, from id `first` on."""
        self._starts.append(self._table.starts[number] + first)
        self._lengths.append(length)

    def close(self) -> None:
        self._pieces.append(len(self._starts))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all rows, int32 [sum of lengths], and where each row ends in them, int64 [rows]."""
        fixed = np.fromiter(chain.from_iterable(self._fixed), np.int32, self._fixed_size)
        pool = np.concatenate([fixed, self._table.pool()])
        starts, lengths = np.array(self._starts, np.int64), np.array(self._lengths, np.int64)
        starts = np.where(starts < 0, -1 - starts, starts + self._fixed_size)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        # Id i of the result is id starts[p] + (i - ends[p]) of the pool, where p is the piece that contains it.
        places = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], lengths)
        return pool[places], ends[np.array(self._pieces, np.int64)]
