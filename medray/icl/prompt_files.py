"""Prompts and answers of a run on disk: one file of each for each kind of examples, such as prompts-retrieved-5.jsonl."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medray.data.records import Message
from medray.errors import InputError
from medray.icl import line_file
from medray.icl.asking import Model
from medray.icl.documents import Document, as_json
from medray.icl.prompting import Prompt
from medray.storage import json_files


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptCounts:
    """Counts over the prompts of one file. fewer: prompts with fewer examples than asked for. cut: those with examples that
    the token budget left out. zero: prompts without an example. too_long: over the budget even so.
    """

    prompts: int
    examples: int
    fewer: int
    cut: int
    dropped: int
    zero: int
    too_long: int

    @classmethod
    def of(cls, prompts: Sequence[Prompt], asked: int) -> PromptCounts:
        return cls(
            prompts=len(prompts),
            examples=sum(len(prompt.shown) for prompt in prompts),
            fewer=sum(len(prompt.shown) < asked for prompt in prompts),
            cut=sum(prompt.dropped > 0 for prompt in prompts),
            dropped=sum(prompt.dropped for prompt in prompts),
            zero=sum(not prompt.shown for prompt in prompts),
            too_long=sum(prompt.too_long for prompt in prompts),
        )


def prompt_hash(prompt: Prompt) -> str:
    """Return the hash of a prompt's messages."""
    messages = json.dumps([_message(each) for each in prompt.messages])
    return hashlib.sha256(messages.encode()).hexdigest()[:16]


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write prompts to a file, unless it has them already."""
    rows = [_row(prompt) for prompt in prompts]
    fingerprint = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]
    found = line_file.read(path, fingerprint)
    if found is not None and len(found) == len(rows):
        return
    with line_file.opened(path, fingerprint) as lines:
        for row in rows:
            lines.add(row)


def answer_prompts(
    path: Path,
    prompts: Sequence[Prompt],
    documents: Mapping[str, Document],
    model: Model,
    basis: str,
    progress: Callable[[int, int], None],
) -> dict[str, str]:
    """Return the answer to each prompt by the id of its document. Answers that the file has are not computed again.

    basis: hash of what files of answers must share to be compared; it is stored with them. A row of the file has the
    columns that `medray eval` reads: id, prediction, reference, finish.
    """
    fingerprint = hashlib.sha256(f"{basis} {model.identity}".encode()).hexdigest()[:32]
    hashes = {prompt.id: prompt_hash(prompt) for prompt in prompts}
    with line_file.opened(path, fingerprint, basis=basis) as lines:
        waiting = [
            prompt for prompt in prompts if lines.rows.get(prompt.id, {}).get("prompt") != hashes[prompt.id]
        ]
        for batch in model.answers(waiting, progress) if waiting else ():
            for said in batch:
                gold = as_json(documents[said.id].answer)
                row = {"id": said.id, "prediction": said.text, "reference": gold, "finish": said.finish}
                lines.add(row | {"tokens": said.tokens, "prompt": hashes[said.id]})
        return {name: text for name, text in _predictions(lines.rows, path).items() if name in hashes}


def read_answers(path: Path, prompts: Sequence[Prompt] | None = None) -> dict[str, str]:
    """Return the predictions in a JSONL file with the columns id and prediction, by id.

    prompts: of a run; answers to other prompts are left out. Raises InputError for a file without such rows.
    """
    try:
        found = json_files.read_lines(path)
    except OSError as error:
        raise InputError(
            f"cannot read this file ({error.strerror})", file=path, key="--answers", fix="use a JSONL file"
        ) from None
    rows = {str(row.get("id", "")): row for row in found.records}
    if not rows or (found.unreadable and not line_file.about(path)):
        raise InputError(
            f"{found.unreadable} lines of this file are not JSON objects, {len(found.records)} are",
            file=path,
            key="--answers",
            fix="use a JSONL file with the columns id and prediction",
        )
    if prompts is not None:
        hashes = {prompt.id: prompt_hash(prompt) for prompt in prompts}
        rows = {
            name: row for name, row in rows.items() if name in hashes and row.get("prompt") == hashes[name]
        }
    return _predictions(rows, path)


def _predictions(rows: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, str]:
    bad = sum(not isinstance(row.get("prediction"), str) or not row.get("id") for row in rows.values())
    if bad:
        raise InputError(
            f"{bad} lines have no id or no text as prediction",
            file=path,
            fix="write one object with id and prediction per line",
        )
    return {name: str(row["prediction"]) for name, row in rows.items()}


def _row(prompt: Prompt) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "messages": [_message(each) for each in prompt.messages],
        "examples": list(prompt.shown),
        "dropped": prompt.dropped,
        "tokens": prompt.tokens,
    }


def _message(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}
