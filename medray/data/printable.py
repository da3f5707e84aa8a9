"""The rule for showing names from a data file in messages: names, never values.

`docs/data.md` states the rule for users.

Column names, JSON keys and entity types are text from a file. If a header is missing, or an object has patients as
keys, such names are text of a record. Every message that shows such a name gets it from this module.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

LONGEST_NAME, MOST_NAMES = 40, 20
MOST_TYPES = 50  # a file with more distinct entity types has values instead of types
NOT_SHOWN = "a column whose name is not shown"

_IDENTIFIER = re.compile(r"[^\W\d][\w.-]*", re.UNICODE)
_LONG_NUMBER = re.compile(r"\d{3}|\d+[-./]\d+")  # record numbers, years, dates
_WORD = re.compile(r"[^\W\d_]+", re.UNICODE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Words that column names of training data consist of. They reveal nothing about a person.
_USUAL = frozenset((
    "abstract", "age", "annotation", "answer", "answers", "article", "assistant", "audio", "body",
    "category", "chatbot", "choice", "choices", "chosen", "claim", "class", "clean", "clinical", "code",
    "column", "comment", "completion", "content", "context", "conversation", "conversations", "cop",
    "correct", "count", "dataset", "date", "description", "dialog", "dialogue", "dialogues", "difficulty",
    "doc", "document", "documents", "domain", "end", "entities", "entity", "equation", "evidence",
    "example", "exp", "explanation", "feedback", "file", "final", "focus", "from", "full", "gender",
    "generated", "gold", "group", "header", "history", "human", "hypothesis", "id", "idx", "image",
    "impression", "incorrect", "index", "indication", "input", "inputs", "instruction", "instructions",
    "item", "key", "keys", "label", "labels", "lang", "language", "length", "level", "long", "medical",
    "message", "messages", "meta", "metadata", "model", "name", "note", "notes", "num", "number",
    "offset", "offsets", "opa", "opb", "opc", "opd", "option", "options", "original", "output", "outputs",
    "page", "passage", "passages", "path", "patient", "pmid", "preference", "premise", "problem",
    "prompt", "qa", "qid", "qtype", "question", "questions", "rank", "rationale", "rationales", "raw",
    "reason", "reasoning", "record", "reference", "references", "rejected", "relation", "relations",
    "report", "request", "response", "responses", "result", "role", "row", "sample", "score", "section",
    "sentence", "sentences", "sequence", "short", "solution", "source", "speaker", "split", "start",
    "statement", "step", "style", "subject", "subset", "subtype", "summary", "system", "tag", "tags",
    "target", "task", "teacher", "test", "text", "texts", "thought", "time", "title", "token", "tokens",
    "topic", "train", "transcript", "transcription", "translation", "turn", "turns", "type", "url",
    "user", "utterance", "validation", "value", "values", "version", "word", "words",
))  # fmt: skip


def column_names(names: Collection[str]) -> str | None:
    """Return the usual names among the column names of a file, and how many others there are; None if none is usual.

    No other name is shown: a single word or an identifier such as patient_Jane_Roe may be text of a record, whatever
    the names next to it are.
    """
    usual = {name for name in names if is_usual(name)}
    return _listed(usual, len(names)) if usual else None


def nearest_name(name: str, names: Collection[str]) -> str | None:
    """Return the usual name among `names` that `name` was probably meant to be; None if there is none."""
    usual = {each.strip().lower(): each for each in sorted(names) if is_usual(each)}
    near = difflib.get_close_matches(name.strip().lower(), usual, n=1)
    return usual[near[0]] if near else None


def type_names(names: Collection[str]) -> str | None:
    """Return entity types, relation types or split names for a message; None if they look like values of a record."""
    shown = set(filter(is_type_name, names))
    return _listed(shown, len(names)) if shown and len(names) <= MOST_TYPES else None


def is_type_name(name: str) -> bool:
    """Return whether a type looks like a name of at most three words, and not like a value of a record."""
    return _is_name(name.replace(" ", "_")) and name.count(" ") < 3


def column_name(name: str) -> str:
    """Return "column 'image'" for a usual column name, and NOT_SHOWN for any other."""
    return f"column {name!r}" if is_usual(name) else NOT_SHOWN


def is_usual(name: str) -> bool:
    """Return whether a name consists of words usual in column names and at most two digits, such as "input_1"."""
    words = [word.lower() for word in _WORD.findall(_CAMEL.sub(" ", name))]
    usual = bool(words) and all(word in _USUAL for word in words)
    return usual and len(name) <= LONGEST_NAME and sum(each.isnumeric() for each in name) <= 2


def _is_name(name: str) -> bool:
    """Return whether a type looks like a name: an identifier without a long number, or usual words."""
    if len(name) > LONGEST_NAME or _LONG_NUMBER.search(name):
        return False
    return bool(_IDENTIFIER.fullmatch(name)) or is_usual(name)


def _listed(shown: Collection[str], count: int) -> str:
    first = sorted(shown)[:MOST_NAMES]
    hidden = count - len(first)
    return ", ".join([*first, *([f"{hidden} more that are not shown"] if hidden else [])])
