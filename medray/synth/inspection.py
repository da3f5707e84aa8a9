"""The contents of a file or folder of a synthesis, as counts. No text of it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medray.backends.protocol import Reply
from medray.errors import InputError
from medray.synth import published
from medray.synth.asking.reply_files import answer_of
from medray.synth.asking.steps import parse_key
from medray.synth.asking.store import FOLDER, Store
from medray.synth.chat.checks import ROLE_TAG, plain_problem
from medray.synth.chat.run import CHATS
from medray.synth.lines import count_lines

Counts = dict[str, Counter[str]]


def inspect(path: Path) -> dict[str, Any]:
    """Return the kind of a file or folder, and its counts. Raises InputError if it is none of a synthesis."""
    if path.is_dir():
        return _folder(path)
    kind = ""
    counts: Counts = {}
    rows = 0
    ids: set[str] = set()
    repeated = 0
    for where, row in published.rows(path):
        found = kind_of(row)
        if found is None or (kind and found != kind):
            raise InputError(
                "is not a row of a synthesis"
                if found is None
                else f"is {found}, but earlier rows are {kind}",
                file=where,
                fix="use a file of questions, situations, chats, requests or replies",
            )
        kind, rows = found, rows + 1
        name = str(row.get("custom_id", row.get("key", row.get("id"))))
        repeated += name in ids
        ids.add(name)
        _COUNT[kind](row, name, counts)
    if not rows:
        raise InputError("the file is empty", file=path, key="PATH", fix="use a file with rows")
    plain = {name: dict(sorted(found.items())) for name, found in counts.items()}
    return {"kind": kind, "rows": rows, "repeated_ids": repeated, "counts": plain}


def kind_of(row: Mapping[str, Any]) -> str | None:
    """Return the kind of a row by its keys, or None."""
    if "custom_id" in row and "body" in row:
        return "requests"
    if ("custom_id" in row and "response" in row) or ("key" in row and "text" in row):
        return "replies"
    if "multiturn_style_parameters" in row:
        return "situations"
    if "conversation" in row or "conversations" in row:
        return "chats"
    if "messages" in row and "group" in row:
        return "training rows"
    if "id" in row and "prompt" in row:
        return "questions"
    if "id" in row and "max_tokens" in row:
        return "requests for questions"
    return None


def _add(counts: Counts, name: str, value: object) -> None:
    counts.setdefault(name, Counter())[str(value)] += 1


def _questions(row: Mapping[str, Any], name: str, counts: Counts) -> None:
    part = published.part_of(name)
    _add(counts, "part", part)
    if part == 3:
        _add(counts, "style", name.split("-", 3)[2])


def _situations(row: Mapping[str, Any], name: str, counts: Counts) -> None:
    drawn = row["multiturn_style_parameters"]
    _add(counts, "part", published.part_of(name))
    _add(counts, "turns", row.get("nbr_of_turns"))
    if isinstance(drawn, list) and len(drawn) == 7:
        for label, value in zip(("mode", "chatbot length", "chatbot style", "science"), drawn, strict=False):
            _add(counts, label, value)


def _chats(row: Mapping[str, Any], name: str, counts: Counts) -> None:
    chat = published.chat_of(row, name)
    _add(counts, "part", published.part_of(name))
    _add(counts, "messages", len(chat.messages))
    if any(ROLE_TAG.search(text) for _, text in chat.messages):
        _add(counts, "problems", "role tag")
    if len(chat.messages) % 2:
        _add(counts, "problems", "ends with the user")


def _requests(row: Mapping[str, Any], name: str, counts: Counts) -> None:
    key = parse_key(name)
    body = row["body"] if isinstance(row["body"], dict) else {}
    _add(counts, "step", key.step if key else "not known")
    _add(counts, "model", body.get("model"))


def _replies(row: Mapping[str, Any], name: str, counts: Counts) -> None:
    key = parse_key(name)
    _add(counts, "step", key.step if key else "not known")
    answer = answer_of(dict(row), name)
    if isinstance(answer, Reply):
        _add(counts, "model", answer.model)
        _add(counts, "finish_reason", answer.finish_reason)
        if found := plain_problem(answer):
            _add(counts, "problems", found)
    else:
        _add(counts, "problems", answer.message)


def _prompts(row: Mapping[str, Any], name: str, counts: Counts) -> None:
    _add(counts, "part", row.get("part"))


def _rows(row: Mapping[str, Any], name: str, counts: Counts) -> None:
    _add(counts, "messages", len(row["messages"]))


_COUNT: dict[str, Callable[[Mapping[str, Any], str, Counts], None]] = {
    "requests": _requests,
    "replies": _replies,
    "situations": _situations,
    "chats": _chats,
    "training rows": _rows,
    "questions": _questions,
    "requests for questions": _prompts,
}


def _folder(path: Path) -> dict[str, Any]:
    """Return the counts of the state in the folder of a synthesis."""
    folder = path.parent if path.name == FOLDER else path
    if not (folder / FOLDER).is_dir():
        raise InputError(
            "is not the folder of a synthesis",
            file=path,
            key="PATH",
            fix="use the folder run.storage/run.name",
        )
    store = Store(folder)
    try:
        counts: Counts = {}
        for (step, status, reason), count in sorted(store.counts.items()):
            name = f"{step} {status}" + (f": {reason}" if reason else "")
            counts.setdefault("replies", Counter())[name] = count
        files = {name: count_lines(folder / name) for name in ("questions.jsonl", "situations.jsonl", CHATS)}
        counts["files"] = Counter({name: count for name, count in files.items() if count is not None})
        total = sum(store.counts.values())
        plain = {name: dict(found) for name, found in counts.items()}
        return {"kind": "state", "rows": total, "repeated_ids": 0, "cost": store.cost, "counts": plain}
    finally:
        store.close()
