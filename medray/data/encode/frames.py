"""Frames of conversations: the fixed tokens of a template, with gaps for the texts of a record.

The template is rendered once for each shape of conversation, with a marker instead of each text of a record, and split
at the markers. The fixed parts between them are tokenized once; encoding a record only fills the gaps. A frame also
says which parts carry loss.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from medray.data.encode.render import Turn
from medray.data.encode.templates import Template, UnfitMessagesError
from medray.data.encode.text_ids import Kind, TextIds
from medray.data.reasoning import Reasoning
from medray.errors import InputError

_MARK = "\u2402medray-{}\u2403"  # replaces a text while a template is split; no corpus contains it
_MARKS = re.compile(_MARK.format("([0-9]+)"))
_MARGIN = "\n \n"  # put around a mark to find out whether the template strips a text


@dataclass(frozen=True)
class Fixed:
    """The token ids of a template that are the same in every conversation of a shape.

    end: whether they end a turn of the assistant; they are then trained with it.
    """

    ids: tuple[int, ...]
    end: bool = False


@dataclass(frozen=True)
class Gap:
    """A gap in a frame, to be filled with a text of the record. number: index of the text, in the order of the turns.

    lead: white space of the template that is tokenized together with the text, as the tokenizer does in a whole text.
    lead_tokens: number of ids that it adds. left, right: whether the template strips white space of the text on that
    side. trained: whether the text carries loss if it is an answer.
    """

    number: int
    role: str
    kind: Kind
    lead: str = ""
    lead_tokens: int = 0
    left: bool = False
    right: bool = False
    trained: bool = True

    def fill(self, text: str) -> str:
        """Return the text in the form in which it is tokenized: stripped and with its leading white space."""
        text = text.lstrip() if self.left else text
        return self.lead + (text.rstrip() if self.right else text)


Frame = tuple[Fixed | Gap, ...]
Shape = tuple[tuple[str, str, bool], ...]  # per turn: role, lead, whether a text of the record follows


def shape(turns: tuple[Turn, ...]) -> Shape:
    return tuple((turn.role, turn.lead, turn.text is not None) for turn in turns)


def gaps_of(frame: Frame) -> list[Gap]:
    """Return the gaps of a frame, in their order."""
    return [piece for piece in frame if isinstance(piece, Gap)]


def end_after(frame: Frame, place: int) -> int:
    """Return how many ids the end of turn after gap number `place` has."""
    at = [number for number, piece in enumerate(frame) if isinstance(piece, Gap)][place] + 1
    piece = frame[at] if at < len(frame) else None
    return len(piece.ids) if isinstance(piece, Fixed) and piece.end else 0


def fixed_before(frame: Frame, gaps: int) -> int:
    """Return how many ids of the template precede gap `gaps`; those of the whole frame if it has no more gaps."""
    total = seen = 0
    for piece in frame:
        if isinstance(piece, Fixed):
            total += len(piece.ids)
        elif seen == gaps:
            break
        else:
            seen += 1
    return total


class Frames:
    """The frames of one template and tokenizer. Each shape of conversation is rendered and split only once."""

    def __init__(self, template: Template, ids: TextIds, before: Sequence[int] = ()) -> None:
        """Create an empty collection. before: ids with which the input of an encoder begins."""
        self._template, self._ids, self._before = template, ids, tuple(before)
        self._control = frozenset(ids.control.values())
        self._made: dict[tuple[Shape, bool], Frame | None] = {}
        self._strips = self._find_strips()

    def question(self, shape: Shape) -> Frame | None:
        """Return the frame for the source of an encoder-decoder; None if the template cannot show such a conversation."""
        if (shape, False) not in self._made:
            self._made[shape, False] = self._make(shape, None)
        return self._made[shape, False]

    def conversation(self, shape: Shape, *, thinking: bool = False) -> Frame | None:
        """Return the frame of a conversation that ends with a turn of the assistant, including the end of that turn.

        Returns None if the template cannot show such a conversation. thinking: the last text begins with reasoning, as
        the template's thinking mode writes it.
        """
        if (shape, thinking) not in self._made:
            try:
                self._made[shape, thinking] = self._make(shape, self._ask(shape, thinking), thinking)
            except UnfitMessagesError:
                self._made[shape, thinking] = None
        return self._made[shape, thinking]

    def check(self, shape: Shape) -> None:
        """Check that the template can show a conversation of this shape, which every record needs.

        Raises InputError if not.
        """
        try:
            ask = self._ask(shape)
            if self._make(shape, ask) is not None:
                return
            reason = "the template does not show each text exactly once"
        except UnfitMessagesError as error:
            reason = str(error)
        raise self._template.broken(reason)

    def _ask(self, shape: Shape, thinking: bool = False) -> str:
        return self._template.render(_contents(shape[:-1]), ask=True, thinking=thinking)

    def _text(self, shape: Shape, ask: str | None, thinking: bool) -> str:
        """Return the conversation with marks. In thinking mode, the last text follows the prompt of generation directly."""
        if not thinking:
            return self._template.render(_contents(shape))
        reasoning = Reasoning.of(self._template)
        assert ask is not None
        assert reasoning is not None
        return f"{ask}{_contents(shape)[-1][1]}{reasoning.end}"

    def _untrained(self, shape: Shape, literals: list[str], thinking: bool) -> set[int]:
        """Return the numbers of earlier answers that the template begins differently from a generated answer.

        Such a template leaves out the empty reasoning that it puts before the last answer.
        """
        found, number = set(), 0
        for turn, (role, _, has_text) in enumerate(shape[:-1]):
            if role == "assistant" and has_text:
                try:
                    ask = self._template.render(_contents(shape[:turn]), ask=True, thinking=thinking)
                except UnfitMessagesError:
                    ask = ""
                if not literals[number].startswith(_MARKS.split(ask)[-1]):
                    found.add(number)
            number += has_text
        return found

    def _make(self, shape: Shape, ask: str | None, thinking: bool = False) -> Frame | None:
        text = self._text(shape, ask, thinking)
        literals, numbers = _MARKS.split(text)[::2], [int(number) for number in _MARKS.split(text)[1::2]]
        roles = [role for role, _, has_text in shape if has_text]
        bare = {
            number: not lead for number, lead in enumerate(lead for _, lead, has_text in shape if has_text)
        }
        # A template may repeat the system message, but each other text is shown once.
        shown = Counter(numbers)
        if sorted(shown) != list(range(len(roles))) or any(
            count > 1 and roles[number] != "system" for number, count in shown.items()
        ):
            return None
        handover = ""  # white space between the prompt of generation and an answer
        if ask is not None:
            if numbers[-1] != len(roles) - 1:
                return None
            before = text[: text.rindex(_MARK.format(numbers[-1]))]
            if not before.startswith(ask):
                raise UnfitMessagesError(
                    "a conversation with an answer does not begin with the template's own prompt for generating this answer"
                )
            handover = before[len(ask) :]
            handover = "" if handover.strip() else handover
        end = self._end_of_turn(literals[-1]) if ask is not None else ""
        earlier_end = self._template.turn_end or end
        in_order = numbers == sorted(numbers)
        untrained = self._untrained(shape, literals, thinking) if ask is not None and in_order else set()
        pieces: list[Fixed | Gap] = []
        for place, number in enumerate(numbers):
            answer = roles[number] == "assistant" and ask is not None
            gap = replace(self._gap(number, roles[number], bare[number]), trained=number not in untrained)
            after_answer = (
                place > 0
                and roles[numbers[place - 1]] == "assistant"
                and ask is not None
                and numbers[place - 1] not in untrained
            )
            pieces += self._lead_up(
                literals[place], gap, pieces, answer, handover, earlier_end if after_answer else ""
            )
        if ask is None:
            return (
                *([Fixed(self._before)] if self._before else []),
                *pieces,
                *self._fixed(literals[-1], "inner"),
            )
        rest = self._fixed(end, "inner") or [Fixed((self._ids.end,))]
        return (*self._begin(literals[0]), *pieces, *(replace(piece, end=True) for piece in rest))

    def _begin(self, literal: str) -> list[Fixed]:
        """Return the begin token if the tokenizer needs one and the template does not write it."""
        begin = self._ids.begin
        # Legacy prompts were trained as plain texts, so the tokenizer's begin token precedes even their own one.
        if begin is None or (self._ids.split(literal)[:1] == [begin] and not self._template.legacy):
            return []
        return [Fixed((begin,))]

    def _lead_up(
        self, literal: str, gap: Gap, before: list[Fixed | Gap], answer: bool, handover: str, end: str
    ) -> list[Fixed | Gap]:
        """Return the pieces of the template's text before a gap, and the gap."""
        made: list[Fixed | Gap] = []
        if end and literal.startswith(end):
            made += [replace(piece, end=True) for piece in self._fixed(end, "inner")]
            literal = literal[len(end) :]
        parts = self._ids.split(literal)
        tail = parts[-1] if parts else ""
        lead = ""
        if isinstance(tail, str):
            if not answer:
                lead = tail[len(tail.rstrip()) :]
            elif handover and tail.endswith(handover):
                lead = handover
            parts[-1:] = [tail[: len(tail) - len(lead)]] if len(tail) > len(lead) else []
        made += self._of_parts(parts, self._kind([*before, *made]))
        kind = self._kind([*before, *made])
        # A blank becomes part of the word after it; a line end does not.
        alone = len(self._ids.plain("a", kind))
        lead_tokens = max(len(self._ids.plain(f"{lead}a", kind)) - alone, 0)
        return [*made, replace(gap, kind=kind, lead=lead, lead_tokens=lead_tokens)]

    def _kind(self, before: list[Fixed | Gap]) -> Kind:
        """Return how a text after these pieces is tokenized."""
        if not before:
            return "start"
        last = before[-1]
        after_control = isinstance(last, Fixed) and last.ids[-1] in self._control
        return self._ids.after_control if after_control else "inner"

    def _fixed(self, literal: str, kind: Kind) -> list[Fixed]:
        return self._of_parts(self._ids.split(literal), kind)

    def _of_parts(self, parts: list[str | int], kind: Kind) -> list[Fixed]:
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else self._ids.plain(part, kind)
            kind = self._ids.after_control if isinstance(part, int) else "inner"
        return [Fixed(tuple(ids))] if ids else []

    def _end_of_turn(self, literal: str) -> str:
        """Return the part of the template's last text that a model must write: up to its first control or added token.

        "" if it has no such token.
        """
        if self._template.legacy or self._template.turn_end:
            return literal
        return literal[: self._ids.first_added(literal) or 0]

    def _gap(self, number: int, role: str, bare: bool) -> Gap:
        left, right = self._strips.get(role, (False, False))
        return Gap(number, role, "inner", left=left and bare, right=right)

    def _find_strips(self) -> dict[str, tuple[bool, bool]]:
        """Return whether the template strips a text on the left and on the right, for each role."""
        roles = ("system", "user", "assistant") if self._template.system else ("user", "assistant")
        marked = [(role, _MARGIN + _MARK.format(number) + _MARGIN) for number, role in enumerate(roles)]
        try:
            text = self._template.render(marked)
        except UnfitMessagesError:
            return {}
        return {
            role: (_MARGIN + _MARK.format(number) not in text, _MARK.format(number) + _MARGIN not in text)
            for number, role in enumerate(roles)
        }


def answer_end(tokenizer: Any, template: str) -> int | None:
    """Return the id of the control or added token that ends an answer of a causal model in training.

    Returns None if the end is plain text, or if the template cannot be used.
    """
    ids = TextIds(tokenizer)
    shape: Shape = (("user", "", True), ("assistant", "", True))
    try:
        frame = Frames(Template(tokenizer, template, "causal"), ids).conversation(shape)
    except InputError:
        return None
    known = {*ids.control.values(), *tokenizer.added_tokens_decoder}
    ends = (number for piece in frame or () if isinstance(piece, Fixed) and piece.end for number in piece.ids)
    return next((int(number) for number in ends if number in known), None)


def _contents(shape: Shape) -> list[tuple[str, str]]:
    """Return messages with a mark for each text."""
    messages, number = [], 0
    for role, lead, has_text in shape:
        messages.append((role, lead + _MARK.format(number) if has_text else lead))
        number += has_text
    return messages
