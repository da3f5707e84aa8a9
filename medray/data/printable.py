"""What may be printed of a data file: names, never values. `docs/data.md` states the rule for users.

Column names, JSON keys and entity types are text from a file. Where a header is missing, or an object is keyed by
patients, they are text of a record. Every message that shows such a name takes it from here.
"""

from __future__ import annotations

import re
from collections.abc import Collection

LONGEST_NAME, MOST_NAMES = 40, 20
MOST_TYPES = 50  # a file with more distinct entity types has values in their place
NOT_SHOWN = "a name that is not shown"

_IDENTIFIER = re.compile(r"[^\W\d][\w.-]*", re.UNICODE)
_LONG_NUMBER = re.compile(r"\d{3}|\d+[-./]\d+")  # record numbers, years, dates
_WORD = re.compile(r"[^\W\d_]+", re.UNICODE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Words of which the column names of training data are made. One such name shows that a header is a header.
_USUAL = frozenset(
    [
        "abstract",
        "answer",
        "answers",
        "article",
        "assistant",
        "body",
        "category",
        "chatbot",
        "choice",
        "choices",
        "chosen",
        "class",
        "code",
        "column",
        "completion",
        "content",
        "context",
        "conversation",
        "conversations",
        "cop",
        "count",
        "dataset",
        "description",
        "dialog",
        "dialogue",
        "dialogues",
        "difficulty",
        "doc",
        "document",
        "documents",
        "end",
        "entities",
        "entity",
        "equation",
        "exp",
        "explanation",
        "file",
        "final",
        "focus",
        "from",
        "full",
        "gold",
        "group",
        "header",
        "human",
        "hypothesis",
        "id",
        "idx",
        "impression",
        "index",
        "indication",
        "input",
        "inputs",
        "instruction",
        "key",
        "keys",
        "label",
        "labels",
        "lang",
        "language",
        "length",
        "level",
        "long",
        "messages",
        "meta",
        "metadata",
        "model",
        "name",
        "note",
        "notes",
        "num",
        "number",
        "offset",
        "offsets",
        "opa",
        "opb",
        "opc",
        "opd",
        "option",
        "options",
        "output",
        "outputs",
        "page",
        "passage",
        "passages",
        "path",
        "patient",
        "pmid",
        "premise",
        "prompt",
        "qid",
        "qtype",
        "question",
        "questions",
        "rank",
        "rationale",
        "rationales",
        "reason",
        "reference",
        "rejected",
        "relations",
        "report",
        "response",
        "role",
        "row",
        "score",
        "section",
        "sentence",
        "sentences",
        "sequence",
        "short",
        "source",
        "speaker",
        "split",
        "start",
        "subject",
        "subset",
        "summary",
        "system",
        "tag",
        "tags",
        "target",
        "task",
        "text",
        "texts",
        "title",
        "token",
        "tokens",
        "topic",
        "transcript",
        "transcription",
        "turn",
        "turns",
        "type",
        "url",
        "user",
        "value",
        "values",
        "version",
        "word",
        "words",
    ]
)


def column_names(names: Collection[str]) -> str | None:
    """The column names or keys of a file as a message may list them; None where they look like values.

    They are shown where at least one is a usual name and none looks like a value. Else only the usual ones are, as one
    cell of a record may be the word "note".
    """
    usual = {name for name in names if is_usual(name)}
    if not usual:
        return None
    doubtful = any(name and not _is_name(name) and not name.startswith("Unnamed: ") for name in names)
    return _listed(usual if doubtful else {name for name in names if _is_name(name)}, len(names))


def type_names(names: Collection[str]) -> str | None:
    """Entity types, relation types or split names as a message may list them; None where they look like values."""
    shown = {name for name in names if _is_name(name.replace(" ", "_")) and name.count(" ") < 3}
    return _listed(shown, len(names)) if shown and len(names) <= MOST_TYPES else None


def column_name(name: str) -> str:
    """One column name in quotes, or NOT_SHOWN."""
    return repr(name) if _is_name(name) else NOT_SHOWN


def is_usual(name: str) -> bool:
    """Whether a name is made of words that columns of training data are named by, such as "input_1"."""
    words = [word.lower() for word in _WORD.findall(_CAMEL.sub(" ", name))]
    usual = bool(words) and all(word in _USUAL for word in words)
    return usual and len(name) <= LONGEST_NAME and not _LONG_NUMBER.search(name)


def _is_name(name: str) -> bool:
    """Whether a text looks like a name: an identifier without a long number, or usual words."""
    if len(name) > LONGEST_NAME or _LONG_NUMBER.search(name):
        return False
    return bool(_IDENTIFIER.fullmatch(name)) or is_usual(name)


def _listed(shown: Collection[str], count: int) -> str:
    first = sorted(shown)[:MOST_NAMES]
    hidden = count - len(first)
    return ", ".join([*first, *([f"{hidden} more that are not shown"] if hidden else [])])
