"""The grid of requests for opening questions, in three parts. Its size follows from the lists.

part 1: professions > domains > specialties of the profession; one question each.
part 2: tasks > subtopics of all domains; one question each.
part 3: tasks > (specialties, professions, topics); several questions, each about another patient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medray.config.synth import SynthPromptsConfig
from medray.synth.draws import Draws
from medray.synth.lists.values import Lists, Profession, Setting, Task
from medray.synth.prompts import wording
from medray.synth.prompts.demographics import Patient, allowed_ages, draw_patients

PART_1_TOKENS = 150
PART_1_TASK = 20  # the pseudo task number in the ids of part 1
PHYSICIAN = "physician"


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The person who asks, and the field: a specialty, a profession or a topic of part 3.

    number: zero-based index among all contexts. label: the name that identifies the context to a reader.
    """

    number: int
    label: str
    profession: str
    specialty: str | None
    topic: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRequest:
    """One request for opening questions.

    id: unique in the synthesis. number: index in the grid of its part. question_ids: the id of each question in the reply,
    in part 3 without style and country. context: as in files of parsed questions: a text, or for part 3 the list [task
    number from 1, task, context number from 1, context]. speaker: who asks, for the chat. patients: in part 3, one for each
    question.
    """

    id: str
    part: int
    number: int
    system: str
    prompt: str
    max_tokens: int
    question_ids: tuple[str, ...]
    context: str | tuple[int, str, int, str]
    speaker: str
    patients: tuple[Patient, ...] = ()
    setting: str | None = None

    def to_json(self) -> dict[str, Any]:
        countries = [patient.country for patient in self.patients]
        return {
            "id": self.id,
            "part": self.part,
            "number": self.number,
            "messages": [
                {"role": "system", "content": self.system},
                {"role": "user", "content": self.prompt},
            ],
            "max_tokens": self.max_tokens,
            "context": self.context,
            "countries": countries,
            "setting": self.setting,
        }


def contexts(lists: Lists) -> list[Context]:
    """Return the contexts of part 3: all specialties, then all professions, then all topics."""
    rows: list[tuple[str, str, str | None, str | None]] = [
        *((name, profession, name, None) for profession, name in lists.specialties),
        *((each.name, each.name, None, None) for each in lists.professions),
        *((topic, PHYSICIAN, None, topic) for topic in lists.topics),
    ]
    return [
        Context(number=number, label=label, profession=profession, specialty=specialty, topic=topic)
        for number, (label, profession, specialty, topic) in enumerate(rows)
    ]


def decode(number: int, contexts_in_all: int) -> tuple[int, int]:
    """Return (task, context), both zero-based, of a request number of part 3."""
    return divmod(number, contexts_in_all)


def speaker_of(profession: str, specialty: str | None) -> str:
    return f"{profession} specialized in {specialty}" if specialty else profession


def requests(lists: Lists, config: SynthPromptsConfig, seed: int) -> Iterator[PromptRequest]:
    """Yield the requests of the configured parts. Raises InputError for a context without an age category."""
    made = {1: _part_1, 2: _part_2, 3: _part_3}
    for part in config.parts:
        whole = made[part](lists, config, seed)
        yield from whole if config.sample is None else _sampled(list(whole), config.sample, seed, part)


def counts(lists: Lists) -> dict[int, int]:
    """Return the number of requests in the grid of each part."""
    subtopics = sum(len(domain.subtopics) for domain in lists.domains)
    in_part_3 = len(lists.specialties) + len(lists.professions) + len(lists.topics)
    return {
        1: len(lists.domains) * len(lists.specialties),
        2: len(lists.tasks) * subtopics,
        3: len(lists.tasks) * in_part_3,
    }


def _sampled(whole: list[PromptRequest], count: int, seed: int, part: int) -> list[PromptRequest]:
    """Return `count` requests of a part, in the order of the grid."""
    chosen = Draws(seed, "sample", str(part)).sample(whole, min(count, len(whole)))
    return sorted(chosen, key=lambda request: request.number)


def _part_1(lists: Lists, config: SynthPromptsConfig, seed: int) -> Iterator[PromptRequest]:
    number = 0
    for profession in lists.professions:
        for domain in lists.domains:
            for specialty in profession.specialties:
                yield _about_domain(lists, config, seed, number, profession, specialty, domain.name)
                number += 1


def _about_domain(
    lists: Lists,
    config: SynthPromptsConfig,
    seed: int,
    number: int,
    profession: Profession,
    specialty: str,
    domain: str,
) -> PromptRequest:
    name = f"1/{number}"
    setting = _setting(lists, config, seed, name)
    return PromptRequest(
        id=name,
        part=1,
        number=number,
        system=wording.SYSTEM,
        prompt=wording.part_1(profession.name, specialty, domain, setting),
        max_tokens=PART_1_TOKENS,
        question_ids=(f"{PART_1_TASK}-{number}",),
        context=f"{profession.name}, {specialty}, {domain}",
        speaker=speaker_of(profession.name, specialty),
        setting=setting.name if setting else None,
    )


def _part_2(lists: Lists, config: SynthPromptsConfig, seed: int) -> Iterator[PromptRequest]:
    subtopics = [name for domain in lists.domains for name in domain.subtopics]
    for task in lists.tasks:
        for index, subtopic in enumerate(subtopics):
            name = f"2/{task.number}-{index}"
            setting = _setting(lists, config, seed, name)
            yield PromptRequest(
                id=name,
                part=2,
                number=task.number * len(subtopics) + index,
                system=wording.SYSTEM,
                prompt=wording.part_2(task, subtopic, setting),
                max_tokens=task.max_tokens,
                question_ids=(f"{task.number}-{index}",),
                context=f"{task.name}, {subtopic}",
                speaker=PHYSICIAN,
                setting=setting.name if setting else None,
            )


def _part_3(lists: Lists, config: SynthPromptsConfig, seed: int) -> Iterator[PromptRequest]:
    rows = contexts(lists)
    ages = [allowed_ages(lists, row.profession, row.specialty, row.topic) for row in rows]
    for task in lists.tasks:
        for row in rows:
            number = task.number * len(rows) + row.number
            draws = Draws(seed, "patients", str(number))
            patients = tuple(
                draw_patients(lists, ages[row.number], row.specialty, config.questions_per_request, draws)
            )
            yield _about_patients(lists, config, seed, number, task, row, patients)


def _about_patients(
    lists: Lists,
    config: SynthPromptsConfig,
    seed: int,
    number: int,
    task: Task,
    row: Context,
    patients: tuple[Patient, ...],
) -> PromptRequest:
    # A hash of the countries, not their names: a name may contain a comma, and ids have a limited length.
    countries = hashlib.sha256("\0".join(patient.country for patient in patients).encode()).hexdigest()[:8]
    name = f"3/{number}-{countries}"
    setting = _setting(lists, config, seed, name)
    return PromptRequest(
        id=name,
        part=3,
        number=number,
        system=wording.SYSTEM,
        prompt=wording.part_3(task, row.profession, row.specialty, row.topic, patients, setting),
        max_tokens=config.max_tokens_per_question * len(patients),
        question_ids=tuple(f"{chr(ord('A') + index)}-{number}" for index in range(len(patients))),
        context=(task.number + 1, task.name, row.number + 1, row.label),
        speaker=speaker_of(row.profession, row.specialty),
        patients=patients,
        setting=setting.name if setting else None,
    )


def _setting(lists: Lists, config: SynthPromptsConfig, seed: int, name: str) -> Setting | None:
    return Draws(seed, "setting", name).choice(lists.settings) if config.use_setting else None
