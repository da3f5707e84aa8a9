"""The answers of a batch while they are written: each row has its own limit, stop texts, listener and way to be cancelled.

`generate` knows one limit and one list of stop texts for a whole batch. A server answers unrelated requests in one
batch, so here each row ends by its own rules. The text of a row is the one that it would have alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medray.data.batching.collate import prompts as padded
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer, answers, read_answer
from medray.models.generation import evaluation_settings

if TYPE_CHECKING:
    from torch import Tensor

    from medray.evaluate.asking import Answerer

UNKNOWN = "\ufffd"  # shown for the first bytes of a character whose other bytes are in the next token


@dataclass(kw_only=True, slots=True, eq=False)
class Row:
    """One answer that is being written.

    limit: longest answer in tokens. stop: texts that end it. listener: called with each new piece of text; the pieces
    together are the answer. cancelled: whether nobody waits for the answer; another thread may set it.
    """

    limit: int
    stop: tuple[str, ...] = ()
    listener: Callable[[str], None] | None = None
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


class Rows:
    """The rows of one batch, as the `watch` of `generate.answers`."""

    def __init__(self, tokenizer: Any, ends: Sequence[int], rows: Sequence[Row]) -> None:
        """Prepare one batch. ends: ids that end an answer."""
        self._tokenizer, self._ends, self._rows = tokenizer, frozenset(ends), tuple(rows)
        self._texts = [
            TextPieces(tokenizer, self._ends, row.stop, row.listener) if row.listener else None
            for row in self._rows
        ]

    def __call__(self, ids: Tensor) -> list[bool]:
        """Note the newest token of each row. Return which rows have ended."""
        for row, text, token in zip(self._rows, self._texts, ids[:, -1].tolist(), strict=True):
            if row.ended:
                continue
            row.tokens.append(token)
            row.ended = (
                row.cancelled or token in self._ends or len(row.tokens) >= row.limit or self._stopped(row)
            )
            if text is not None and not row.cancelled:
                text.show(row.tokens)
        return [row.ended for row in self._rows]

    def answers(self) -> list[Answer]:
        """Return the answer of each row, when all have ended, and give the listeners the rest of it."""
        found = []
        for row, text in zip(self._rows, self._texts, strict=True):
            answer = read_answer(self._tokenizer, row.tokens, sorted(self._ends), row.stop)
            if text is not None and not row.cancelled:
                text.finish(answer.text)
            found.append(answer)
        return found

    def _stopped(self, row: Row) -> bool:
        if not row.stop:
            return False
        # A token that is not special has at least one byte, so a text of n bytes is in the last n tokens.
        last = row.tokens[-max(len(text.encode()) for text in row.stop) - 1 :]
        text = self._tokenizer.decode(last, skip_special_tokens=True)
        return any(stop in text for stop in row.stop)


class TextPieces:
    """The text of an answer in pieces, which together are exactly the answer.

    A piece is held back while it may still change or may not belong to the answer: spaces at the end, the beginning of
    a stop text, a character that is not complete, and the newest token, because a tokenizer may join it with the next.
    """

    def __init__(
        self, tokenizer: Any, ends: frozenset[int], stop: Sequence[str], listener: Callable[[str], None]
    ) -> None:
        self._tokenizer, self._ends, self._stop, self._listener = tokenizer, ends, stop, listener
        self._before, self._sent = "", ""

    def show(self, tokens: Sequence[int]) -> None:
        """Send what is certain of the text of these tokens."""
        kept = tokens[:-1] if tokens and tokens[-1] in self._ends else tokens
        text = str(self._tokenizer.decode(kept, skip_special_tokens=True))
        certain = self._certain(_common(self._before, text))
        self._before = text
        self._send(certain)

    def finish(self, text: str) -> None:
        """Send the rest of the answer."""
        self._send(text)

    def _certain(self, text: str) -> str:
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            text = text[: min(found)]
        else:
            held = max((_overlap(text, stop) for stop in self._stop), default=0)
            text = text[: len(text) - held]
        return text.rstrip(UNKNOWN).strip()

    def _send(self, text: str) -> None:
        if len(text) > len(self._sent) and text.startswith(self._sent):
            self._listener(text[len(self._sent) :])
            self._sent = text


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` are the beginning of `stop`."""
    return next(
        (size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0
    )


def write(
    answerer: Answerer,
    prompts: Sequence[np.ndarray],
    rows: Sequence[Row],
    decoding: Decoding,
    *,
    names: Sequence[str],
    task: str = "label",
) -> list[Answer]:
    """Write the answers to prompts in one batch and return them; each row ends by its own rules.

    decoding: the common part: its limit and stop texts are replaced by those of the rows. names: id of each row, which
    sampling needs. With beams, whose earlier tokens may change, a listener hears the whole answer at once, and the rows
    must have equal limits and stop texts.
    """
    if decoding.num_beams > 1:
        asked = replace(decoding, max_new_tokens=rows[0].limit, stop=rows[0].stop)
        found = answerer.answers(prompts, asked, rows=names, task=task)
        for row, answer in zip(rows, found, strict=True):
            if row.listener is not None and answer.text:
                row.listener(answer.text)
        return found
    spec, tokenizer = answerer.asked.spec, answerer.tokenizer
    settings = evaluation_settings(answerer.model, tokenizer, max_new_tokens=1, num_beams=1)
    watch = Rows(tokenizer, settings.eos_token_id, rows)
    answers(
        answerer.model,
        tokenizer,
        padded(prompts, spec.architecture, tokenizer.pad_token_id),
        replace(decoding, max_new_tokens=max(row.limit for row in rows), stop=()),
        device=answerer.device,
        rows=names,
        task=task,
        watch=watch,
    )
    return watch.answers()


def _common(first: str, second: str) -> str:
    """Return the beginning that two texts share."""
    size = next(
        (at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )
    return first[:size]
