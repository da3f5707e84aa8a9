"""One run of `medray synth clean`: chats are read, filtered, split and written, with a datasheet."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medray import storage
from medray.config.synth import SynthCleanConfig, SynthConfig
from medray.data import files, readers
from medray.data.index.text_overlap import Benchmarks, same_text
from medray.data.records import BadRowError
from medray.errors import InputError
from medray.storage import StoragePath, json_files
from medray.synth import published, settings
from medray.synth.asking.store import FOLDER as STATE
from medray.synth.asking.store import OK, Store
from medray.synth.chat import checks
from medray.synth.chat.run import CHATS
from medray.synth.clean.datasheet import datasheet
from medray.synth.clean.filters import CleanChat, group_of, kept, without_near_duplicates
from medray.synth.clean.identifiers import masked as masked_text
from medray.synth.lines import write_lines

FOLDER = "clean"
SPLITS = ("train", "validation")
_NAMES = {"chatbot": "assistant", "user": "user"}


@dataclass(kw_only=True)
class CleanSummary:
    """The counts of a run. rows: by file. turns: kept chats by number of turns. models: accepted replies by model."""

    chats: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def clean(config: SynthConfig) -> CleanSummary:
    """Write training data to `clean/` in the folder of the synthesis. Raises InputError if no chat is left."""
    checks.check_installed()
    folder = settings.folder_of(config)
    summary = CleanSummary()
    dropped: Counter[str] = Counter()
    benchmarks = read_benchmarks(config.clean.decontaminate)
    passed = list(kept(_counted(chats_of(config, folder), summary), config.clean, benchmarks, dropped))
    left = without_near_duplicates(passed, config.clean.near_duplicates, dropped)
    summary.dropped = {reason: count for reason, count in sorted(dropped.items()) if count}
    summary.kept = len(left)
    if not left:
        raise InputError(
            f"none of {summary.chats:,} chats is left: {_reasons(summary.dropped)}",
            file=folder,
            key="clean",
            fix="correct the limits in clean, or make more chats",
        )
    summary.turns = dict(sorted(Counter(str(len(chat.messages) // 2) for chat in left).items()))
    target = folder / FOLDER
    storage.make_private(target)
    splits = split(left, config.clean, config.run.seed)
    for name, chats in splits.items():
        summary.rows[f"{name}.jsonl"] = write_lines(target / f"{name}.jsonl", map(messages_row, chats))
        file = f"conversations_{name}.jsonl"
        summary.rows[file] = write_lines(target / file, map(conversations_row, chats))
    summary.rows["side_table.jsonl"] = write_lines(target / "side_table.jsonl", _side_table(splits))
    _pairs(target, folder, splits["train"], summary, config.clean)
    storage.write(target / "datasheet.md", datasheet(config, summary))
    json_files.write_sealed(target / "clean.json", summary.to_json(), indent=2)
    return summary


def chats_of(config: SynthConfig, folder: StoragePath) -> Iterator[CleanChat]:
    """Yield the chats of the config: its files, else those of this synthesis. Raises InputError if there are none."""
    paths = [Path(file) for file in config.clean.chats]
    if not paths:
        if not (folder / CHATS).exists():
            raise InputError(
                "there are no finished chats",
                file=folder / CHATS,
                key="clean.chats",
                fix="run medray synth chat first, or set clean.chats to files of chats",
            )
        paths = [storage.local(folder / CHATS)]
    for path in paths:
        for where, row in published.rows(path):
            found = published.chat_of(row, where)
            facts: dict[str, Any] = {
                name: row[name] for name in ("context", "style", "mode", "country", "language") if name in row
            }
            yield CleanChat(id=found.id, group=group_of(found.id), messages=found.messages, facts=facts)


def read_benchmarks(paths: Iterable[str]) -> Benchmarks | None:
    """Return the texts of benchmark files, or None without files."""
    expanded = [file for path in paths for file in files.expand(path, key="clean.decontaminate")]
    if not expanded:
        return None
    return Benchmarks.of(
        found.row
        for file in expanded
        for found in readers.read(file, readers.format_of(file))
        if not isinstance(found.row, BadRowError)
    )


def split(chats: Iterable[CleanChat], config: SynthCleanConfig, seed: int) -> dict[str, list[CleanChat]]:
    """Return the chats of each split. All chats of an opening question are in the same split.

    Groups whose questions have the same text count as one question: with `near_duplicates: null` they are all kept.
    """
    found: dict[str, list[CleanChat]] = {name: [] for name in SPLITS}
    chats = list(chats)
    first = _first_groups(chats)
    for chat in chats:
        digest = hashlib.blake2b(f"{seed} {first[chat.group]}".encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        found["validation" if share < config.validation else "train"].append(chat)
    return found


def _first_groups(chats: Iterable[CleanChat]) -> dict[str, str]:
    """Return, for each group, the smallest name of the groups that share a question's text with it."""
    root: dict[str, str] = {}

    def top(name: str) -> str:
        while root.setdefault(name, name) != name:
            root[name] = name = root[root[name]]
        return name

    by_text: dict[bytes, str] = {}
    for chat in chats:
        one, other = top(chat.group), top(by_text.setdefault(same_text(chat.question), chat.group))
        root[max(one, other)] = min(one, other)
    return {name: top(name) for name in list(root)}


def messages_row(chat: CleanChat) -> dict[str, Any]:
    """Return the row that `medray train` reads as the form `messages`."""
    return {
        "id": chat.id,
        "group": chat.group,
        "messages": [{"role": _NAMES[role], "content": text} for role, text in chat.messages],
    }


def conversations_row(chat: CleanChat) -> dict[str, Any]:
    """Return the row in the published final form."""
    return {
        "id": chat.id,
        "conversations": [{"from": _NAMES[role], "value": text} for role, text in chat.messages],
    }


def _side_table(splits: dict[str, list[CleanChat]]) -> Iterator[dict[str, Any]]:
    for name, chats in splits.items():
        for chat in chats:
            part = published.part_of(chat.id)
            yield {"id": chat.id, "split": name, "group": chat.group, "part": part, **chat.facts}


def _pairs(
    target: StoragePath,
    folder: StoragePath,
    chats: list[CleanChat],
    summary: CleanSummary,
    config: SynthCleanConfig,
) -> None:
    """Write preference pairs of the training split: an accepted answer, and one that was rejected before it.

    Only answers of the chatbot count, and only those that were rejected for what they say, not for how they ended. Identifiers
    in a rejected answer are dropped or masked as in a chat. Chats of other files have no rejected answers here: their ids may
    be those of this synthesis.
    """
    if config.chats or not (folder / STATE).exists():
        (target / "pairs.jsonl").unlink(missing_ok=True)  # of an earlier run
        return
    by_id = {chat.id: chat for chat in chats}
    store = Store(folder)
    rows: list[dict[str, Any]] = []
    models: Counter[str] = Counter()
    try:
        for reply in store.rows():
            models[reply["model"] or reply["backend"]] += reply["status"] == OK
            chat = by_id.get(reply["id"])
            index = {"1c": 1, "2c": 3, "3c": 5}.get(reply["step"], 0)
            if chat is None or not index or index >= len(chat.messages):
                continue
            if (
                reply["status"] == OK
                or not reply["text"].strip()
                or reply["reason"].startswith("finish_reason")
            ):
                continue
            masked, identifiers_found = masked_text(reply["text"])
            if identifiers_found and config.pii == "drop":
                summary.dropped["rejected answer with an identifier"] = (
                    summary.dropped.get("rejected answer with an identifier", 0) + 1
                )
                continue
            rows.append(_pair(chat, index, reply, reply["text"] if config.pii == "keep" else masked))
    finally:
        store.close()
    summary.models = dict(sorted(models.items()))
    summary.rows["pairs.jsonl"] = write_lines(target / "pairs.jsonl", rows)


def _pair(chat: CleanChat, index: int, reply: dict[str, Any], rejected: str) -> dict[str, Any]:
    asked = [{"role": _NAMES[role], "content": text} for role, text in chat.messages[:index]]
    return {
        "id": f"{chat.id}|{reply['step']}|{reply['attempt']}",
        "group": chat.group,
        "prompt": asked[0]["content"] if len(asked) == 1 else asked,
        "chosen": chat.messages[index][1],
        "rejected": rejected,
        "reason": reply["reason"],
    }


def _counted(chats: Iterable[CleanChat], summary: CleanSummary) -> Iterator[CleanChat]:
    for chat in chats:
        summary.chats += 1
        yield chat


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in dropped.items()) or "there are no chats"
