"""Published replies to requests for questions (`gpt_results*.jsonl`): the id of a request tells what was asked.

Part 1 has a running number, part 2 `TASK-SUBTOPIC`, and part 3 `N-COUNTRY,COUNTRY,…` with one country per question.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medray.backends.protocol import Reply
from medray.errors import InputError
from medray.synth import published
from medray.synth.asking.reply_files import answer_of
from medray.synth.chat.checks import plain_problem
from medray.synth.lists.values import Lists
from medray.synth.prompts.demographics import Patient
from medray.synth.prompts.grid import PART_1_TASK, PHYSICIAN, PromptRequest, contexts, decode, speaker_of
from medray.synth.prompts.questions import Question, parse


def is_results(file: Path) -> bool:
    """Return whether the first row of a file is a reply with a custom_id."""
    first = next(iter(published.rows(file)), None)
    return first is not None and "custom_id" in first[1] and "response" in first[1]


def questions(
    file: Path, lists: Lists, seed: int, *, strip_quotes: bool
) -> tuple[list[Question], Counter[str]]:
    """Return the questions of a file of replies, with answer styles in part 3, and what was dropped, by reason.

    Raises InputError for an id that the lists do not explain.
    """
    requests: dict[str, PromptRequest] = {}
    texts: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for where, row in published.rows(file):
        request = request_of(str(row.get("custom_id")), lists)
        if request is None:
            raise InputError(
                "the lists do not explain this custom_id",
                file=where,
                key="prompts.resources",
                fix="use the lists that the requests were made from",
            )
        answer = answer_of(row, request.id)
        reason = plain_problem(answer) if isinstance(answer, Reply) else answer.message
        if reason is not None or not isinstance(answer, Reply):
            dropped[str(reason)] += 1
        elif request.id not in requests:
            requests[request.id], texts[request.id] = request, answer.text
    found = parse(requests.values(), texts, lists.styles, seed, strip_quotes=strip_quotes)
    return found.questions, dropped + Counter(found.dropped)


def request_of(custom_id: str, lists: Lists) -> PromptRequest | None:
    """Return the request with a published id; None if the lists have no such request."""
    if re.fullmatch(r"\d{1,9}", custom_id):
        return _part_1(int(custom_id), lists)
    if match := re.fullmatch(r"(\d{1,6})-(\d{1,6})", custom_id):
        return _part_2(int(match[1]), int(match[2]), lists)
    if match := re.fullmatch(r"(\d{1,9})-(.+)", custom_id, re.DOTALL):
        return _part_3(int(match[1]), _countries(match[2], lists), lists)
    return None


def _part_1(number: int, lists: Lists) -> PromptRequest | None:
    left = number
    for profession in lists.professions:
        width = len(profession.specialties)
        if left < width * len(lists.domains):
            domain, specialty = lists.domains[left // width].name, profession.specialties[left % width]
            return _request(
                1,
                number,
                (f"{PART_1_TASK}-{number}",),
                f"{profession.name}, {specialty}, {domain}",
                speaker_of(profession.name, specialty),
            )
        left -= width * len(lists.domains)
    return None


def _part_2(task: int, subtopic: int, lists: Lists) -> PromptRequest | None:
    names = [name for domain in lists.domains for name in domain.subtopics]
    if task >= len(lists.tasks) or subtopic >= len(names):
        return None
    context = f"{lists.tasks[task].name}, {names[subtopic]}"
    return _request(2, task * len(names) + subtopic, (f"{task}-{subtopic}",), context, PHYSICIAN)


def _part_3(number: int, countries: Sequence[str], lists: Lists) -> PromptRequest | None:
    rows = contexts(lists)
    task, context = decode(number, len(rows))
    if task >= len(lists.tasks) or len(countries) > 26:
        return None
    ids = tuple(f"{chr(ord('A') + index)}-{number}" for index in range(len(countries)))
    row = rows[context]
    about = (task + 1, lists.tasks[task].name, context + 1, row.label)
    return _request(3, number, ids, about, speaker_of(row.profession, row.specialty), countries)


def _request(
    part: int,
    number: int,
    ids: tuple[str, ...],
    context: str | tuple[int, str, int, str],
    speaker: str,
    countries: Sequence[str] = (),
) -> PromptRequest:
    return PromptRequest(
        id=f"{part}/{number}",
        part=part,
        number=number,
        system="",
        prompt="",
        max_tokens=1,
        question_ids=ids,
        context=context,
        speaker=speaker,
        patients=tuple(
            Patient(country=name, age="", age_range="", sex="", gender=None) for name in countries
        ),
    )


def _countries(text: str, lists: Lists) -> list[str]:
    """Return the countries of an id. A known name may contain a comma."""
    known = sorted((name for name in lists.all_countries if "," in name), key=len, reverse=True)
    pattern = "|".join([*map(re.escape, known), r"[^,]+"])
    return [name.strip() for name in re.findall(pattern, text)]
