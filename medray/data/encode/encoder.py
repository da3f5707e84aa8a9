"""Encoding of records: token ids and loss spans of each task as flat arrays, the same for training and inference.

A causal model reads one sequence: the prompt, the answer, and the end of the answer's turn. All pieces are tokenized
separately, so the ids before an answer are exactly those that inference will see, and the loss mask is stored as
(start, end) pairs, never searched for in padded text. An encoder-decoder reads the prompt as its source and writes the
answer as its labels.

The texts of a batch of records are tokenized in one call and assembled by NumPy. Python never loops over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from medray.config.method_specs import split_task
from medray.data.encode.assembly import RowIds, TextTable
from medray.data.encode.frames import (
    Fixed,
    Frame,
    Frames,
    Gap,
    Shape,
    end_after,
    fixed_before,
    gaps_of,
    shape,
)
from medray.data.encode.render import EncodeSpec, PromptAndAnswer, Turn, reading, reference
from medray.data.encode.templates import Template
from medray.data.encode.text_ids import TextIds
from medray.data.reasoning import (
    Reasoning,
    answer_only,
    drops_earlier_reasoning,
    knows_reasoning,
    split_reasoning,
)
from medray.data.records import Instruction, Message, Preference, Record
from medray.errors import InputError

__all__ = ["ENCODER_VERSION", "EncodeSpec", "Encoder", "Prompts", "TaskColumns", "reference"]

ENCODER_VERSION = 3
NO_ANSWER = "x"  # used for a prompt whose answer does not exist yet


@dataclass(frozen=True)
class TaskColumns:
    """The encoded rows of one task of a batch of records, as flat arrays. A row without the task has no ids.

    input_ids: int32 [sum of lengths]; the whole sequence for a causal model, the source for an encoder-decoder.
    input_ends: int64 [rows], cumulative. targets: int32; for an encoder-decoder the target's tokens, for a causal
    model flat (start, end) pairs of the tokens in the row's input_ids that carry loss. A start is at least 1, and the
    last pair is the answer that generation would write. target_ends: int64 [rows], cumulative. cut: bool [rows],
    whether input or target was cut, or the row has no label to learn.
    """

    input_ids: np.ndarray
    input_ends: np.ndarray
    targets: np.ndarray
    target_ends: np.ndarray
    cut: np.ndarray


@dataclass(frozen=True)
class Prompts:
    """Prompts of one task. ids: int32 token ids of each row; empty if the template cannot show the record.

    cut: whether each prompt lost a part of the record's text to a limit.
    """

    ids: tuple[np.ndarray, ...]
    cut: tuple[bool, ...]


@dataclass(frozen=True)
class _Fit:
    """A frame, and how many ids each of its texts keeps. numbers: the texts' numbers in the batch's table.

    skipped: ids that each text loses at its beginning; it loses the others at its end.
    """

    frame: Frame
    numbers: list[int]
    kept: list[int]
    skipped: list[int]
    cut: bool


class Encoder:
    """Turns records into token ids with one tokenizer. Create it in the process that uses it.

    Raises InputError if the tokenizer's template cannot be used.
    """

    def __init__(self, tokenizer: Any, spec: EncodeSpec) -> None:
        self.spec, self._causal = spec, spec.architecture == "causal"
        self._ids = TextIds(tokenizer)
        # An encoder-decoder's tokenizer may wrap inputs and targets in different tokens (mBART: language codes).
        before, self._after_input = ([], []) if self._causal else self._ids.around(target=False)
        self._target = ([], []) if self._causal else self._ids.around(target=True)
        template = Template(tokenizer, spec.template, spec.architecture)
        self._frames = Frames(template, self._ids, before)
        if self._causal:
            self._frames.check((("user", "", True), ("assistant", "", True)))
        self._reasons = self._causal and knows_reasoning(template)
        self._reasoning = Reasoning.of(template) if self._reasons else None
        if self._reasoning and any(
            isinstance(part, int) for mark in self._reasoning.marks for part in self._ids.split(mark)
        ):
            self._reasoning = None  # a row's text contains no control token, so it cannot contain these marks
        self._drops_earlier = drops_earlier_reasoning(template) if self._reasons else False

    def encode(self, records: Sequence[Record]) -> dict[str, TaskColumns]:
        """Encode records and return the columns of every task, with rows in the order of `records`."""
        return self._encode(
            {
                task: [self._thought(reading(record, task, self.spec)) for record in records]
                for task in self.spec.tasks
            }
        )

    def prompts(self, records: Sequence[Record], task: str) -> Prompts:
        """Return the prompts of one task: the ids that precede the answers in `encode`, for records without answers too.

        A record that has an answer gets the prompt of training, which asks for reasoning if the answer has some. Other
        records are asked without reasoning.
        """
        columns = self._encode({task: [self._question(record, task) for record in records]})[task]
        return Prompts(tuple(ids for ids, _ in self._split(columns)), tuple(columns.cut.tolist()))

    def messages(self, record: Record, task: str) -> tuple[Message, ...] | None:
        """Return the messages of a prompt, for a server that has a template of its own; None as for `prompts`.

        They have the prompt and system message of training, and are not cut.
        """
        one = self._question(record, task)
        if one is None:
            return None
        return tuple(Message(_role(turn), turn.lead + (turn.text or "")) for turn in one.turns)

    def with_answers(
        self, record: Record, answers: Sequence[str], task: str
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (prompt, target) of one task of a record for each of several answers, int32 token ids.

        A target has its end token.
        """
        asked = [self._thought(reading(record, task, self.spec, answer=answer)) for answer in answers]
        return self._split(self._encode({task: asked})[task])

    def _split(self, columns: TaskColumns) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (prompt, target) of each row; both are empty if the row lacks the task."""
        found = []
        starts = [0, *columns.input_ends[:-1].tolist()]
        target_starts = [0, *columns.target_ends[:-1].tolist()]
        for row, (start, end) in enumerate(zip(starts, columns.input_ends.tolist(), strict=True)):
            ids = columns.input_ids[start:end]
            target = columns.targets[target_starts[row] : columns.target_ends[row]]
            if self._causal and len(ids):
                first, last = target[-2:].tolist()
                ids, target = ids[:first], ids[first:last]
            found.append((ids, target))
        return found

    def _question(self, record: Record, task: str) -> PromptAndAnswer | None:
        """Return the prompt of a record with a short answer; None if the record cannot be asked for this task.

        The answer has no influence on the prompt, except for its reasoning.
        """
        if task != "label" and isinstance(record, Instruction | Preference):
            return None
        own = reading(record, task, self.spec)
        one = self._thought(own or reading(record, task, self.spec, answer=NO_ANSWER))
        if one is None:
            return None
        short = NO_ANSWER
        if one.thinking and self._reasoning is not None:
            short = self._reasoning.written(NO_ANSWER, NO_ANSWER)
        return replace(one, answer=short)

    def _encode(self, found: dict[str, list[PromptAndAnswer | None]]) -> dict[str, TaskColumns]:
        table = TextTable(self._ids)
        for one in (one for rows in found.values() for one in rows if one is not None):
            frame, texts = self._frame(one)
            for gap in gaps_of(frame or ()):
                table.add(gap.kind, gap.fill(texts[gap.number]))
            if not self._causal:
                table.add("target", one.answer)
        table.tokenize()
        return {task: self._columns(task, rows, table) for task, rows in found.items()}

    def _thought(self, one: PromptAndAnswer | None) -> PromptAndAnswer | None:
        """Return a prompt and answer whose reasoning is written as the template itself writes it.

        Raises InputError for an answer with reasoning if the template drops it, or writes it in a way that training
        cannot repeat.
        """
        if one is None or not self._reasons:
            return one
        if self._drops_earlier is None and any(
            turn.role == "assistant" and turn.text and split_reasoning(turn.text) for turn in one.turns
        ):
            raise self._no_reasoning("an earlier answer of a row has reasoning")
        if self._drops_earlier:
            turns = (
                replace(turn, text=answer_only(turn.text)) if turn.role == "assistant" and turn.text else turn
                for turn in one.turns
            )
            one = replace(one, turns=tuple(turns))
        reasoning, answer = split_reasoning(one.answer) or ("", "")
        if not reasoning:
            return replace(one, answer=answer_only(one.answer))
        if self._reasoning is None:
            raise self._no_reasoning("a row has reasoning")
        return replace(one, answer=self._reasoning.written(reasoning, answer), thinking=True)

    def _no_reasoning(self, what: str) -> InputError:
        return InputError(
            f"{what} (<think> or reasoning_content), but this template leaves such reasoning out, or writes it with "
            "control tokens or at another position, which training cannot reproduce",
            key="data.template",
            value=self.spec.template.partition("\n")[0][:80],
            fix="use data.template: chatml, or a Jinja file that renders reasoning_content with plain marks such as "
            "<think>; or remove the reasoning from the rows",
        )

    def _columns(self, task: str, rows: list[PromptAndAnswer | None], table: TextTable) -> TaskColumns:
        inputs, targets = RowIds(table), RowIds(table)
        spans: list[int] = []
        ends, cut = [], np.zeros(len(rows), bool)
        for number, one in enumerate(rows):
            fit = None if one is None or self._is_left_out(one, task, table) else self._fit(one, task, table)
            if one is None or fit is None:
                # A rationale that a record lacks does not count as cut. An answer does that is required, or that the
                # record has but the row cannot contain.
                cut[number] = one is not None or split_task(task)[0] in self.spec.required
            elif self._causal:
                cut[number] = fit.cut
                spans += self._add(fit, one, inputs)
            else:
                cut[number] = self._add_target(one, task, targets, table) | fit.cut
                self._add(fit, one, inputs)
            inputs.close()
            targets.close()
            ends.append(len(spans))
        ids, id_ends = inputs.finish()
        if self._causal:
            return TaskColumns(ids, id_ends, np.array(spans, np.int32), np.array(ends, np.int64), cut)
        return TaskColumns(ids, id_ends, *targets.finish(), cut)

    def _is_left_out(self, one: PromptAndAnswer, task: str, table: TextTable) -> bool:
        """Return whether the answer is longer than its limit and must not be cut."""
        if split_task(task)[0] not in self.spec.whole:
            return False
        limit = self.spec.limit(task)
        if not self._causal:
            before, after = self._target
            return table.length(table.number("target", one.answer)) + len(before) + len(after) > limit
        frame, texts = self._frame(one)
        if frame is None:
            return True
        last = len(gaps := gaps_of(frame)) - 1
        number = table.number(gaps[last].kind, gaps[last].fill(texts[gaps[last].number]))
        return table.length(number) + end_after(frame, last) > limit

    def _add(self, fit: _Fit, one: PromptAndAnswer, row: RowIds) -> list[int]:
        """Add the pieces of a row and return the flat spans that carry loss; [] for an encoder-decoder."""
        spans: list[int] = []
        last = sum(isinstance(piece, Gap) for piece in fit.frame) - 1
        only_last = one.last_only or one.thinking or self.spec.train_turns == "last"
        position, gap = 0, -1
        for piece in fit.frame:
            start = position
            if isinstance(piece, Fixed):
                row.add_fixed(piece.ids)
                position += len(piece.ids)
                trained = piece.end
            else:
                gap += 1
                lead = piece.lead_tokens if fit.skipped[gap] else 0
                if lead:
                    row.add_text(fit.numbers[gap], lead)
                row.add_text(fit.numbers[gap], fit.kept[gap] - lead, lead + fit.skipped[gap])
                position += fit.kept[gap]
                trained = piece.role == "assistant" and piece.trained
            if self._causal and trained and position > start and (gap == last or not only_last):
                if spans and spans[-1] == start:
                    spans[-1] = position
                else:
                    spans += [max(start, 1), position]
        if not self._causal:
            row.add_fixed(tuple(self._after_input))
            return []
        if self.spec.train_on == "all" and not one.last_only:
            # Use two spans, so that the last one still begins where generation does.
            return [1, spans[-2], *spans[-2:]] if spans[-2] > 1 else spans[-2:]
        return spans

    def _add_target(self, one: PromptAndAnswer, task: str, row: RowIds, table: TextTable) -> bool:
        """Add an encoder-decoder's target as `tokenizer(text_target=…)` makes it. Return whether it was cut."""
        before, after = self._target
        limit = max(self.spec.limit(task) - len(before) - len(after), 0)
        number = table.number("target", one.answer)
        if before:
            row.add_fixed(tuple(before))
        row.add_text(number, min(table.length(number), limit))
        row.add_fixed(tuple(after))
        return table.length(number) > limit

    def _frame(
        self, one: PromptAndAnswer, turns: tuple[Turn, ...] | None = None
    ) -> tuple[Frame | None, list[str]]:
        """Return the frame of a prompt and answer, with the texts for its gaps."""
        turns = one.turns if turns is None else turns
        if self._causal:
            turns = (*turns, Turn("assistant", "", one.answer))
        texts = [turn.text for turn in turns if turn.text is not None]
        made: Shape = shape(turns)
        if self._causal:
            return self._frames.conversation(made, thinking=one.thinking), texts
        return self._frames.question(made), texts

    def _fit(self, one: PromptAndAnswer, task: str, table: TextTable) -> _Fit | None:
        """Return a prompt and answer cut to their limits; None if the template cannot show them."""
        turns, dropped = one.turns, False
        while True:
            frame, texts = self._frame(one, turns)
            shorter = _without_oldest(turns) if one.conversation else None
            if frame is not None:
                numbers = [table.number(gap.kind, gap.fill(texts[gap.number])) for gap in gaps_of(frame)]
                fit = self._cut(frame, numbers, one, task, table, last_resort=shorter is None)
                if fit is not None:
                    return replace(fit, cut=fit.cut or dropped)
            if shorter is None:
                return None
            turns, dropped = shorter, True

    def _cut(
        self,
        frame: Frame,
        numbers: list[int],
        one: PromptAndAnswer,
        task: str,
        table: TextTable,
        *,
        last_resort: bool,
    ) -> _Fit | None:
        """Cut answers and the input at their limits. Return None if turns must be left out first."""
        gaps, limit = gaps_of(frame), self.spec.limit(task)
        whole = [table.length(number) for number in numbers]
        kept, skipped = list(whole), [0] * len(gaps)
        from_left = self.spec.max_prompt_tokens
        budget = self.spec.max_input_tokens if from_left is None else from_left
        for place, gap in enumerate(gaps):
            if gap.role == "assistant" and self._causal and (place == len(gaps) - 1 or not one.last_only):
                kept[place] = min(kept[place], max(limit - end_after(frame, place), 0))
            elif not one.conversation and from_left is None:
                kept[place] = min(kept[place], budget + gap.lead_tokens)
        if one.conversation or from_left is not None:
            before = len(gaps) - 1 if self._causal else len(gaps)
            fixed = fixed_before(frame, before) + len(self._after_input)
            over = fixed + sum(kept[:before]) - budget
            if over > 0 and not last_resort:
                return None
            # Cut the last question first, then a long system message; from the left, the other way; never an answer.
            order = sorted(range(before), key=lambda place: (gaps[place].role == "system", -place))
            for place in order if from_left is None else reversed(order):
                if over > 0 and gaps[place].role != "assistant":
                    taken = min(over, max(kept[place] - gaps[place].lead_tokens, 0))
                    kept[place], over = kept[place] - taken, over - taken
                    skipped[place] = 0 if from_left is None else taken
        return _Fit(frame, numbers, kept, skipped, kept != whole)


def _role(turn: Turn) -> Literal["system", "user", "assistant"]:
    return "system" if turn.role == "system" else "assistant" if turn.role == "assistant" else "user"


def _without_oldest(turns: tuple[Turn, ...]) -> tuple[Turn, ...] | None:
    """Return the conversation without its oldest question and answer; None if only one is left. Keeps the system message."""
    head = 1 if turns and turns[0].role == "system" else 0
    following = (at for at in range(head + 1, len(turns)) if turns[at].role == "user")
    at = next(following, None)
    return None if at is None else turns[:head] + turns[at:]
