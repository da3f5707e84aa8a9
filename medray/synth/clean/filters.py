"""The filters of finished chats. Each gives a reason, and all are counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medray.config.synth import SynthCleanConfig
from medray.data.index.text_overlap import Benchmarks, bytes_hash, same_text
from medray.data.inspect.near_duplicates import earlier_likes
from medray.synth.chat.checks import FEWEST_LETTERS, ROLE_TAG, language_of
from medray.synth.clean import identifiers
from medray.synth.published import part_of

_LEADING_TAG = re.compile(
    r"\A(?:[\s*_]*\(?[\s*_]*(?:user|chatbot|assistant)[\s*_]*(?:\)|:)[*_]*\s*:?\s*)+", re.IGNORECASE
)
_DOSE = re.compile(
    r"\b\d+(?:[.,]\d+)?\s*(?:mg|mcg|µg|ug|g|ml|iu|units?)\b(?!\s*/?\s*(?:dl|l)\b)", re.IGNORECASE
)
_WARNING = re.compile(r"dosages?\s+should\s+be\s+verified", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanChat:
    """One finished chat. group: its opening question, whatever the answer style. messages: as (role, text)."""

    id: str
    group: str
    messages: tuple[tuple[str, str], ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """Return the opening question without the option of its answer style, which is its last line."""
        text = self.messages[0][1]
        return text.rpartition("\n")[0] or text if part_of(self.id) == 3 else text


def group_of(name: str) -> str:
    """Return the opening question that an id belongs to: `A-0-2E-Fiji` and `A-0-5B-Fiji` are one question."""
    return "-".join(name.split("-", 2)[:2]) if part_of(name) == 3 else name


def kept(
    chats: Iterable[CleanChat], config: SynthCleanConfig, benchmarks: Benchmarks | None, dropped: Counter[str]
) -> Iterator[CleanChat]:
    """Yield the chats that pass all filters but that for near-duplicates, changed where the config says so."""
    seen: set[int] = set()
    for chat in chats:
        made = _without_tags(chat)
        found = _problem(made, config, benchmarks)
        if found is None:
            text = bytes_hash(same_text(made.messages[0][1]))
            found = "duplicate" if text in seen else None
            seen.add(text)
        if found is None:
            made, counts = _without_identifiers(made)
            for kind, count in counts.items():
                dropped[f"{kind} found"] += count
            if counts and config.pii == "drop":
                found = "identifier of a person"
            elif config.pii == "keep":
                made = _without_tags(chat)
        if found is not None:
            dropped[found] += 1
        else:
            yield made


def without_near_duplicates(
    chats: Sequence[CleanChat], threshold: float | None, dropped: Counter[str]
) -> list[CleanChat]:
    """Return the chats without those whose question is similar to an earlier question of another group."""
    if threshold is None:
        return list(chats)
    first = {chat.group: chat.question for chat in reversed(chats)}
    groups = list(dict.fromkeys(chat.group for chat in chats))
    likes = earlier_likes(((group, first[group]) for group in groups), threshold)
    alike = {group for group, like in zip(groups, likes, strict=True) if like is not None}
    dropped["near-duplicate"] += sum(chat.group in alike for chat in chats)
    return [chat for chat in chats if chat.group not in alike]


def _without_tags(chat: CleanChat) -> CleanChat:
    return replace(
        chat, messages=tuple((role, _LEADING_TAG.sub("", text).strip()) for role, text in chat.messages)
    )


def _without_identifiers(chat: CleanChat) -> tuple[CleanChat, Counter[str]]:
    counts: Counter[str] = Counter()
    messages = []
    for role, text in chat.messages:
        made, found = identifiers.masked(text)
        messages.append((role, made))
        counts += found
    return replace(chat, messages=tuple(messages)), counts


def _problem(chat: CleanChat, config: SynthCleanConfig, benchmarks: Benchmarks | None) -> str | None:
    texts = [text for _, text in chat.messages]
    answers = texts[1::2]
    if len(texts) % 2:
        return "ends with the user"
    if any(ROLE_TAG.search(text) for text in texts):
        return "role tag"
    if not all(texts) or any(len(text) < config.shortest_answer for text in answers):
        return "too short"
    if config.longest_chat is not None and sum(map(len, texts)) > config.longest_chat:
        return "too long"
    if config.dose_warning and any(_DOSE.search(text) and not _WARNING.search(text) for text in answers):
        return "dose without a warning"
    asked = chat.question
    if config.languages and _long(asked) and language_of(asked) not in config.languages:
        return "language of the question"
    language = chat.facts.get("language")
    if language and any(_long(text) and language_of(text) != language for text in answers):
        return "language of an answer"
    if benchmarks is not None and benchmarks.hold(chat.question, "\n".join(texts)):
        return "in a benchmark"
    return None


def _long(text: str) -> bool:
    return sum(map(str.isalpha, text)) >= FEWEST_LETTERS
