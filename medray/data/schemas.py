"""Conversion of rows to records: the schemas of medical training data, and the reasons why a row is bad.

`auto` chooses the schema by the names of a row's columns alone, so the same row always becomes the same record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from medray.config.columns import Column, ColumnsConfig, is_template
from medray.data.reasoning import with_reasoning
from medray.data.records import (
    BadRowError,
    Distill,
    Entity,
    Extraction,
    Instruction,
    Message,
    Origin,
    Preference,
    Rationale,
    Record,
    Relation,
    TwoStep,
    UselessRowError,
)
from medray.data.row_text import (
    MISSING,
    NoTextError,
    Row,
    as_text,
    composed,
    label_text,
    required,
    text,
    value,
)

_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatbot": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


def parse(row: Row, columns: ColumnsConfig, *, form: str = "auto", source: str, number: int) -> Record:
    """Convert a row of a source to a record.

    number: the row's 0-based position in the source. A row without an id is named by its position counted from 1, like
    the line numbers in messages. Raises BadRowError if a column of the schema is missing or a value has a wrong type.
    """
    form = form_of(row, columns) if form == "auto" else form
    name = text(row, columns.id) or text(row, "document_id") or f"{source}:{number + 1}"
    group = text(row, columns.group) or (text(row, "document_id") if form == "bigbio" else None)
    origin = Origin(name, source, group or "", text(row, columns.lang) or "")
    return _FORMS[form](row, columns, origin)


def form_of(row: Row, columns: ColumnsConfig) -> str:
    """Return the schema that fits the columns of a row. Columns that the user named take precedence."""
    if columns.model_fields_set & {"input", "label", "label_names", "label_options"}:
        return "columns"
    for form, wanted in _MARKS:
        if row.keys() >= wanted:
            return form
    return "columns"


_MARKS = (
    ("messages", {"messages"}),
    ("sharegpt", {"conversations"}),
    ("taiyi", {"conversation"}),
    ("preference", {"chosen", "rejected"}),
    ("two_step", {"input_1", "input_2"}),
    ("bigbio", {"passages", "entities"}),
    ("meditron", {"prompt", "gold"}),
    ("alpaca", {"instruction", "output"}),
)


def _columns(row: Row, columns: ColumnsConfig, origin: Origin) -> Distill:
    return Distill(
        origin,
        composed(row, columns.input),
        label_text(row, columns),
        _rationale(row, columns.rationale),
        _assertions(row, columns.entities),
        _key_words(row),
    )


def _taught(row: Row, columns: ColumnsConfig, origin: Origin) -> Distill:
    """Return a record with a teacher's answer. A row whose completion could not be parsed stays, without targets."""
    return Distill(
        origin,
        composed(row, columns.input),
        _label_or_nothing(row, columns),
        _rationale(row, columns.rationale),
    )


def _alpaca(row: Row, columns: ColumnsConfig, origin: Origin) -> Instruction:
    """Return a record of instruction, input and output. Without an input, the instruction is the question."""
    instruction, question = required(row, "instruction"), text(row, "input")
    asked = (
        (Message("system", instruction), Message("user", question))
        if question
        else (Message("user", instruction),)
    )
    return Instruction(origin, (*asked, Message("assistant", required(row, "output"))))


def _meditron(row: Row, columns: ColumnsConfig, origin: Origin) -> Instruction:
    system = text(row, "system")
    asked = (Message("user", required(row, "prompt")), Message("assistant", required(row, "gold")))
    return Instruction(origin, ((Message("system", system), *asked) if system else asked))


def _taiyi(row: Row, columns: ColumnsConfig, origin: Origin) -> Instruction:
    given = _list(row, "conversation")
    if given and isinstance(given[0], Mapping) and "human" not in given[0]:  # each turn has a role
        return Instruction(
            origin, _conversation(_turns(row, "conversation", "from", "value"), "conversation")
        )
    turns = []
    for number, turn in enumerate(given, 1):
        if not isinstance(turn, Mapping):
            raise BadRowError(f"turn {number} of 'conversation' is not an object")
        turns += [Message("user", required(turn, "human")), Message("assistant", required(turn, "assistant"))]
    return Instruction(origin, _conversation(turns, "conversation"))


def _messages(row: Row, columns: ColumnsConfig, origin: Origin) -> Instruction:
    return Instruction(origin, _conversation(_turns(row, "messages", "role", "content"), "messages"))


def _sharegpt(row: Row, columns: ColumnsConfig, origin: Origin) -> Instruction:
    turns = _turns(row, "conversations", "from", "value")
    system = text(row, "system")
    if system:
        turns.insert(0, Message("system", system))
    return Instruction(origin, _conversation(turns, "conversations"))


def _two_step(row: Row, columns: ColumnsConfig, origin: Origin) -> TwoStep:
    return TwoStep(
        origin,
        required(row, "input_1"),
        required(row, "input_2"),
        required(row, "output") if "output" in row else label_text(row, columns),
        _composed_or_none(row, columns.rationale),
        _key_words(row),
    )


def _preference(row: Row, columns: ColumnsConfig, origin: Origin) -> Preference:
    """Return a record of prompt, chosen and rejected texts, or of two conversations that differ only in the last answer."""
    if isinstance(row.get("chosen"), str):
        asked = row.get("prompt")
        prompt = (
            [Message("user", required(row, "prompt"))]
            if isinstance(asked, str)
            else _turns(row, "prompt", "role", "content")
        )
        if isinstance(asked, str) and (system := text(row, "system")):
            prompt.insert(0, Message("system", system))
        chosen, rejected = text(row, "chosen") or "", text(row, "rejected") or ""
        if "rejected" not in row:
            raise BadRowError("no column 'rejected'")
    else:
        (better, chosen), (worse, rejected) = (
            _question_and_answer(row, name) for name in ("chosen", "rejected")
        )
        if better != worse:
            raise BadRowError("the conversations 'chosen' and 'rejected' differ before their last answers")
        prompt = better or _turns(row, "prompt", "role", "content")
    if not prompt or prompt[-1].role != "user":
        raise BadRowError("the prompt does not end with a message of the user")
    if not chosen.strip() or not rejected.strip():
        raise UselessRowError("an answer of the pair is empty")
    if chosen.strip() == rejected.strip():
        raise UselessRowError("the chosen and the rejected answer are the same")
    return Preference(origin, tuple(prompt), chosen, rejected)


def _question_and_answer(row: Row, column: str) -> tuple[list[Message], str]:
    """Return the turns before the last answer of a conversation, and that answer; "" if it is empty."""
    turns, given = _turns(row, column, "role", "content"), _list(row, column)
    last = str(given[-1].get("role")).lower() if given else ""
    if _ROLES.get(last) != "assistant":
        raise BadRowError(f"the conversation {column!r} does not end with an answer of the assistant")
    if not text(given[-1], "content"):
        return turns, ""
    return turns[:-1], turns[-1].content


def _bigbio(row: Row, columns: ColumnsConfig, origin: Origin) -> Extraction:
    """Return a record of BigBio's KB schema: passages, entities, and relations that refer to entities by id."""
    passages = tuple(
        " ".join(_strings(passage, "text")) if isinstance(passage, Mapping) else as_text(passage, "passages")
        for passage in _list(row, "passages")
    )
    if not any(passages):
        raise BadRowError("no passage has a text")
    entities = tuple(
        Entity(
            str(item.get("id", "")),
            str(item.get("type", "")),
            tuple(_strings(item, "text")),
            _offsets(item.get("offsets") or ()),
        )
        for item in _objects(row, "entities")
    )
    known = {entity.id for entity in entities}
    relations = tuple(
        Relation(str(item.get("type", "")), str(item.get("arg1_id")), str(item.get("arg2_id")))
        for item in (_objects(row, "relations") if row.get("relations") else ())
    )
    if any(end not in known for relation in relations for end in (relation.first, relation.second)):
        raise BadRowError("a relation refers to an unknown entity")
    return Extraction(origin, passages, entities, relations)


def _offsets(value: Any) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(start), int(end)) for start, end in value)
    except (TypeError, ValueError, OverflowError):
        raise BadRowError("the offsets of an entity are not pairs of numbers") from None


_FORMS: dict[str, Callable[[Row, ColumnsConfig, Origin], Record]] = {
    "columns": _columns,
    "taught": _taught,
    "alpaca": _alpaca,
    "meditron": _meditron,
    "taiyi": _taiyi,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "two_step": _two_step,
    "preference": _preference,
    "bigbio": _bigbio,
}


def _reasoning(turn: Row) -> str | None:
    """Return the reasoning of a message, under any of the names that servers and corpora use."""
    others = (turn[key] for key in ("reasoning", "thinking") if isinstance(turn.get(key), str))
    return text(turn, "reasoning_content") or next(filter(None, map(str.strip, others)), None)


def _turns(row: Row, column: str, role: str, content: str) -> list[Message]:
    turns = []
    for number, turn in enumerate(_list(row, column), 1):
        if not isinstance(turn, Mapping):
            raise BadRowError(f"turn {number} of {column!r} is not an object")
        name = turn.get(role, turn.get("role"))
        if not isinstance(name, str) or name.lower() not in _ROLES:
            raise BadRowError(f"turn {number} of {column!r} has an unknown role")
        said = text(turn, content if content in turn else "content")
        thought = _reasoning(turn)
        if thought and (_ROLES[name.lower()] != "assistant" or not said):
            raise BadRowError(f"turn {number} of {column!r} has reasoning but is not an answer")
        if said:  # skip an empty turn
            said = with_reasoning(thought, said) if thought else said
            turns.append(Message(_ROLES[name.lower()], said))
    return turns


def _conversation(turns: list[Message], column: str) -> tuple[Message, ...]:
    """Return a conversation: system, then alternating user and assistant.

    Consecutive turns of one role are joined; a last question without an answer is dropped.
    """
    joined: list[Message] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            joined[-1] = Message(turn.role, f"{joined[-1].content}\n\n{turn.content}")
        else:
            joined.append(turn)
    while joined and joined[-1].role != "assistant":
        joined.pop()
    spoken = joined[1:] if joined and joined[0].role == "system" else joined
    if not spoken:
        raise BadRowError(f"no turn of {column!r} is an answer of the assistant")
    if spoken[0].role != "user" or any(turn.role == "system" for turn in spoken):
        raise BadRowError(f"{column!r} does not begin with a message of the user")
    return tuple(joined)


def _rationale(row: Row, column: Column | None) -> Rationale | None:
    if not isinstance(column, str) or (is_template(column) and column not in row):
        return _composed_or_none(row, column)
    found = row[column] if column in row else value(row, column)
    if isinstance(found, Mapping):
        # A key without a value is part of the answer: the document does not say.
        # The keys are text of the record, so a message names the column only.
        texts = {str(name): text({column: each}, column) for name, each in found.items()}
        return texts if any(texts.values()) else None
    if isinstance(found, list):
        return tuple(said for item in found if (said := as_text(item, column))) or None
    return None if found is None or found is MISSING else as_text(found, column) or None


def _composed_or_none(row: Row, column: Column | None) -> str | None:
    try:
        return composed(row, column) if column is not None else None
    except NoTextError:
        return None


def _key_words(row: Row) -> str | None:
    """Return the key words of a row, which `medray data annotate` writes. A column of this name that is not text has none."""
    return text(row, "key_words") if isinstance(row.get("key_words"), str) else None


def _label_or_nothing(row: Row, columns: ColumnsConfig) -> str:
    try:
        return label_text(row, columns)
    except NoTextError:
        return ""


def _assertions(row: Row, column: str | None) -> tuple[Mapping[str, Any], ...] | None:
    if column is None or row.get(column) is None:
        return None
    value = row[column]
    if isinstance(value, str) and value.strip() in ("", "null"):
        return None
    items = _list(row, column)
    if not all(isinstance(item, Mapping) and isinstance(item.get("text"), str) for item in items):
        raise BadRowError(f"column {column!r} is not a list of objects with a text")
    found = tuple({"text": item["text"], "assertion": item.get("assertion") or "present"} for item in items)
    if not all(item["text"].strip() for item in found):
        raise BadRowError(f"column {column!r} has an entity without a text")
    if any(item["assertion"] not in ("present", "absent") for item in found):
        raise BadRowError(f"column {column!r} has an assertion that is neither present nor absent")
    return found


def _list(row: Row, column: str) -> list[Any]:
    """Return a list, which may be given as JSON text, because CSV has no lists."""
    value = row.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRowError(f"column {column!r} is not a JSON list") from None
    if not isinstance(value, list | tuple):
        raise BadRowError(f"column {column!r} is not a list")
    return list(value)


def _objects(row: Row, column: str) -> list[Mapping[str, Any]]:
    items = _list(row, column)
    if not all(isinstance(item, Mapping) for item in items):
        raise BadRowError(f"column {column!r} is not a list of objects")
    return items


def _strings(row: Row, column: str) -> list[str]:
    value = row.get(column)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise BadRowError(f"column {column!r} of a passage or entity is not text")
    return [as_text(item, column) for item in values]
