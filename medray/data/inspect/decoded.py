"""Decoding of tokens to what a model sees: rows with their loss mask, and inputs without the text of the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medray import storage
from medray.config.method_specs import split_task
from medray.data.encode import IGNORED
from medray.data.encode.encoder import Encoder, EncodeSpec
from medray.data.encode.template_checks import PROBE_ORIGIN
from medray.data.encode.text_ids import TextIds
from medray.data.records import Distill, Entity, Extraction, Instruction, Message, Preference
from medray.data.shards.shard_file import ShardStore, shard_path, shard_table
from medray.data.shards.token_split import TokenSet

_PROBES = ("cat", "Dog")  # they begin with different letters, so that their prompts share only the frame


@dataclass(frozen=True)
class Piece:
    """A token as text, with its id and its loss mask.

    The text is "" if the token is a part of a character that a later token completes.
    """

    text: str
    number: int
    special: bool
    loss: bool


@dataclass(frozen=True)
class TaskSample:
    """The decoded tokens of one task of a sampled row.

    parts: (name, tokens): one sequence for a causal model, source and target for an encoder-decoder. cut: whether text
    was cut.
    """

    task: str
    parts: tuple[tuple[str, tuple[Piece, ...]], ...]
    cut: bool


@dataclass(frozen=True)
class Sample:
    """A sampled row as training reads it, with all tasks that it has."""

    split: str
    id: str
    tasks: tuple[TaskSample, ...]


def samples(tokens: TokenSet, split: str, tokenizer: Any, rows: Sequence[tuple[int, int]]) -> list[Sample]:
    """Decode all tasks of the rows given as (shard, row) pairs."""
    store, special = tokens.store(), frozenset(TextIds(tokenizer).control.values())
    found = []
    for shard, row in rows:
        tasks = []
        for task in tokens.spec.tasks:
            ids, labels = (array.tolist() for array in store.example(shard, row, task))
            if not ids:
                continue
            cut = bool(store.counts(shard, task, "cut")[row])
            if tokens.spec.architecture == "causal":
                loss = [label != IGNORED for label in labels]
                parts: tuple[tuple[str, tuple[Piece, ...]], ...] = (
                    ("sequence", _pieces(tokenizer, ids, special, loss)),
                )
            else:
                parts = (
                    ("source", _pieces(tokenizer, ids, special, [False] * len(ids))),
                    ("target", _pieces(tokenizer, labels, special, [True] * len(labels))),
                )
            tasks.append(TaskSample(task, parts, cut))
        found.append(Sample(split, str(store.text(shard, row, "id")), tuple(tasks)))
    return found


def _pieces(
    tokenizer: Any, ids: list[int], special: frozenset[int], loss: Sequence[bool]
) -> tuple[Piece, ...]:
    """Return each token's own text: the text that it adds to the tokens before it, because blanks and bytes depend on them."""
    found: list[Piece] = []
    begin = read = 0
    for place, number in enumerate(ids):
        if number in special:
            found.append(Piece(str(tokenizer.convert_ids_to_tokens(number)), number, True, loss[place]))
            begin = read = place + 1
            continue
        before, now = _text(tokenizer, ids[begin:read]), _text(tokenizer, ids[begin : place + 1])
        follows = place + 1 < len(ids) and ids[place + 1] not in special
        if now.endswith("\ufffd") and follows:
            found.append(Piece("", number, False, loss[place]))
            continue
        found.append(Piece(now[len(before) :], number, False, loss[place]))
        begin, read = read, place + 1
    return tuple(found)


def _text(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def find_row(tokens: TokenSet, name: str) -> tuple[int, int] | None:
    """Find the record with the id `name`. Return its (shard, row), or None if the split does not contain it."""
    for shard in tokens.index.shards:
        ids = shard_table(shard_path(storage.at(tokens.folder), shard.index), ["id"]).column("id")
        if (row := ids.index(name).as_py()) >= 0:
            return shard.index, row
    return None


def drawn_rows(
    tokens: TokenSet, count: int, seed: int, most_shards: int | None = None
) -> list[tuple[int, int]]:
    """Draw at most `count` different (shard, row) pairs from at most `most_shards` shards, in the order of shards."""
    shards = list(tokens.index.shards)
    draw = np.random.default_rng([seed, 7])
    if most_shards is not None and len(shards) > most_shards:
        shards = [shards[place] for place in sorted(draw.choice(len(shards), most_shards, replace=False))]
    ends = np.cumsum([shard.rows for shard in shards])
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.sort(draw.choice(total, min(count, total), replace=False)) if total else np.empty(0, np.int64)
    places = np.searchsorted(ends, chosen, side="right")
    return [
        (shards[place].index, int(row - (ends[place] - shards[place].rows)))
        for place, row in zip(places.tolist(), chosen.tolist(), strict=True)
    ]


class Inputs:
    """The inputs of records without the text that the template and the prompt of a task add around them.

    The added text is found with two artificial records: what their prompts share at both ends belongs to no record.
    """

    def __init__(self, tokenizer: Any, spec: EncodeSpec) -> None:
        self._tokenizer = tokenizer
        encoder = Encoder(tokenizer, spec)
        languages = dict.fromkeys(("", *spec.prompts_by_lang))
        self._frames = {
            task: [frame for lang in languages for frame in _frames(encoder, task, lang)]
            for task in spec.tasks
        }

    def ids(self, store: ShardStore, shard: int, row: int, task: str) -> list[int]:
        """Return the token ids of one row's input; [] if the row lacks the task."""
        ids: list[int] = store.prompt(shard, row, task).tolist()
        begin, end = 0, 0
        for prefix, suffix in self._frames[task]:
            head = _common(ids, prefix)
            if head > begin:
                begin, end = head, _common(ids[head:][::-1], suffix[::-1])
        return ids[begin : len(ids) - end]

    def texts(self, rows: Sequence[list[int]]) -> list[str]:
        """Decode token ids to texts, without control tokens."""
        return texts(self._tokenizer, rows)


def texts(tokenizer: Any, rows: Sequence[list[int]]) -> list[str]:
    """Decode token ids to texts, without control tokens."""
    if not rows:
        return []
    found: list[str] = tokenizer.batch_decode(
        list(rows), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return found


def _frames(encoder: Encoder, task: str, lang: str) -> list[tuple[list[int], list[int]]]:
    """Return (ids before, ids after) the input for a prompted record, a conversation, a document and a preference pair in a
    language."""
    origin = replace(PROBE_ORIGIN, lang=lang)
    _, key = split_task(task)
    prompted = [Distill(origin, text, "answer", {key: "answer"} if key else "answer") for text in _PROBES]
    talks = [Instruction(origin, (Message("user", text), Message("assistant", "answer"))) for text in _PROBES]
    documents = [Extraction(origin, (text,), (Entity("1", "", ("answer",)),)) for text in _PROBES]
    asked = [(Message("user", text),) for text in _PROBES]
    choices = [Preference(origin, prompt, "answer", "other") for prompt in asked]
    columns = encoder.encode([*prompted, *talks, *documents, *choices])[task]
    prompts: list[list[int]] = []
    begin = target_begin = 0
    for end, target_end in zip(columns.input_ends.tolist(), columns.target_ends.tolist(), strict=True):
        ids, targets = columns.input_ids[begin:end], columns.targets[target_begin:target_end]
        if encoder.spec.architecture == "causal" and len(targets):
            ids = ids[: targets[-2]]
        prompts.append(ids.tolist())
        begin, target_begin = end, target_end
    found = []
    for one, other in zip(prompts[::2], prompts[1::2], strict=True):
        head = _common(one, other)
        tail = _common(one[head:][::-1], other[head:][::-1])
        found.append((one[:head], one[len(one) - tail :]))
    return found


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
