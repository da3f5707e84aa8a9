"""The texts of the requests for opening questions."""

from __future__ import annotations

from collections.abc import Sequence

from medray.synth.lists.values import Setting, Task
from medray.synth.prompts.demographics import Patient

SEPARATOR = "###"

SYSTEM = (
    "You write questions that health workers would put to a medical chatbot in their daily work. You write as the health "
    "worker, never as the chatbot, and you never answer the questions."
)
_ONLY_ONE = "Write only the question, without any text before or after it."


def part_1(profession: str, specialty: str, domain: str, setting: Setting | None) -> str:
    """Return the request for one question about a domain."""
    return _joined(
        f"Write one question that {_someone(profession)} specialized in {specialty} might ask a medical chatbot.",
        f"It is about {domain}, and concerns a practical problem with a patient.",
        _in_setting(setting),
        _ONLY_ONE,
    )


def part_2(task: Task, subtopic: str, setting: Setting | None) -> str:
    """Return the request for one question about a subtopic, in which a task is to be done."""
    return _joined(
        f"Write one realistic question that a physician might ask a medical chatbot to get help with this task: {task.name}.",
        f"The task: {task.description}",
        f"The question arises in the context of {subtopic}.",
        task.instruction,
        _in_setting(setting),
        "Add details only where the instructions above ask for them.",
        _ONLY_ONE,
    )


def part_3(
    task: Task,
    profession: str,
    specialty: str | None,
    topic: str | None,
    patients: Sequence[Patient],
    setting: Setting | None,
) -> str:
    """Return the request for several questions, each about one patient."""
    who = _someone(profession) + (f" specialized in {specialty}" if specialty else "")
    lines = [f"Question {number}: {_of(patient)}" for number, patient in enumerate(patients, 1)]
    return "\n".join(
        [
            _joined(
                f"Write {len(patients)} different, detailed questions that {who} might ask a medical chatbot to get help with "
                f"this task: {task.name}" + (f", in the medical field {topic}." if topic else "."),
                f"The task: {task.description}",
                task.instruction,
                _in_setting(setting),
                f"Each question is about one patient whom this {profession.lower()} sees:",
            ),
            *lines,
            "Mention the gender identity only where it matters medically. The questions must be realistic for the countries.",
            f"Write only the questions, and separate them by a line with {SEPARATOR}.",
        ]
    )


def _of(patient: Patient) -> str:
    gender = f", gender identity: {patient.gender}" if patient.gender else ""
    return f"a patient in {patient.country}, age group: {patient.age} ({patient.age_range}), sex: {patient.sex}{gender}"


def _someone(profession: str) -> str:
    return f"{'an' if profession[:1].lower() in 'aeiou' else 'a'} {profession.lower()}"


def _in_setting(setting: Setting | None) -> str:
    return (
        f"The health worker works in this setting: {setting.name}. {setting.description}" if setting else ""
    )


def _joined(*sentences: str) -> str:
    return " ".join(sentence.strip() for sentence in sentences if sentence.strip())
