"""The clinical note about a case, in one house style, with its entities and relations; and the key facts as a
rationale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from medray.clinic import lexicon as words
from medray.clinic.case import Case


class Note:
    """A clinical note that is being written. It records the positions of the entities that it mentions."""

    def __init__(self) -> None:
        self.text = ""
        self.entities: list[dict[str, Any]] = []
        self.relations: list[dict[str, Any]] = []
        self._gap = ""

    def section(self, header: str) -> None:
        """Begin a section with a header on a new line."""
        self._gap = f"\n{header}" if self.text else header

    def start(self, opening: str) -> None:
        """Begin a sentence with the words in `opening`."""
        self.text += self._gap + opening
        self._gap = " "

    def mention(self, text: str, kind: str, assertion: str = "present") -> int:
        """Write an entity into the note and return its index."""
        start = len(self.text)
        self.text += text
        self.entities.append(
            {"start": start, "end": start + len(text), "text": text, "type": kind, "assertion": assertion}
        )
        return len(self.entities) - 1

    def series(self, names: Sequence[str], kind: str, last: str = " and ") -> list[int]:
        """Write entities as "a, b and c.", end the sentence, and return their indices."""
        places = []
        for number, name in enumerate(names):
            if number:
                self.text += last if number == len(names) - 1 else ", "
            places.append(self.mention(name, kind))
        self.text += "."
        return places

    def fact(self, opening: str, name: str, kind: str, assertion: str) -> None:
        """Write a sentence about one entity."""
        self.start(opening)
        self.mention(name, kind, assertion)
        self.text += "."


def write_note(case: Case, sectioned: bool) -> Note:
    note = Note()
    parts = (
        ("History: ", _write_history, True),
        ("Medications: ", _write_medications, True),
        ("Allergies: ", _write_allergies, case.allergies is not None),
        ("Family: ", _write_family, bool(case.family)),
        ("Social: ", _write_social, bool(case.social)),
        ("", _write_vitals, bool(case.vitals)),
        ("", _write_plan, bool(case.tests)),
    )
    for header, write, has_any in parts:
        if has_any:
            if sectioned:
                note.section(header)
            write(note, case)
    return note


def _write_history(note: Note, case: Case) -> None:
    conditions = [item.condition for item in case.treatments]
    note.start(f"{case.age}-year-old {case.sex} with ")
    note.series([condition.name for condition in conditions], "problem")
    if case.present:
        note.start("Reports ")
        places = note.series([symptom.name for symptom in case.present], "problem")
        for symptom, head in zip(case.present, places, strict=True):
            # The conditions were written first, so their indices are 0, 1, …
            tails = [tail for tail, condition in enumerate(conditions) if symptom.name in condition.symptoms]
            note.relations += [{"type": "symptom_of", "head": head, "tail": tail} for tail in tails[:1]]
    for symptom in case.absent:
        note.fact(f"{symptom.cue} ", symptom.name, "problem", "absent")


def _write_medications(note: Note, case: Case) -> None:
    for tail, (_, drug, dose) in enumerate(case.treatments):
        note.start("Takes ")
        head = note.mention(f"{drug.name} {dose}", "drug")
        note.text += f" {drug.frequency}." if case.frequency else "."
        note.relations.append({"type": "treats", "head": head, "tail": tail})


def _write_allergies(note: Note, case: Case) -> None:
    if case.allergies:
        note.start("Allergic to ")
        note.series([allergen.name for allergen in case.allergies], "allergy")
    else:
        note.fact("No ", words.NO_ALLERGIES, "allergy", "absent")


def _write_family(note: Note, case: Case) -> None:
    for item, present in case.family:
        note.fact(
            "Has " if present else "No ", words.FAMILY_PREFIX + item.name, "family", _assertion(present)
        )


def _write_social(note: Note, case: Case) -> None:
    for item, present in case.social:
        note.fact("Reports " if present else "Denies ", item.name, "social", _assertion(present))


def _write_vitals(note: Note, case: Case) -> None:
    note.start("Vitals: ")
    note.series([f"{vital.name} {vital.note.format(*value)}" for vital, value in case.vitals], "vital", ", ")


def _write_plan(note: Note, case: Case) -> None:
    note.start("Plan: ")
    note.series(case.tests, "test", ", ")
    note.start(f"Return in {case.weeks} weeks.")


def _assertion(present: bool) -> str:
    return "present" if present else "absent"


def key_facts(case: Case) -> Iterator[tuple[str, str]]:
    """Yield the key facts of a case as (fact, present | absent | value), in the order of the note."""
    yield from ((item.condition.name, "present") for item in case.treatments)
    yield from ((symptom.name, "present") for symptom in case.present)
    yield from ((symptom.name, "absent") for symptom in case.absent)
    for _, drug, dose in case.treatments:
        yield drug.name, f"{dose} {drug.frequency}" if case.frequency else dose
    if case.allergies == ():
        yield words.NO_ALLERGIES, "absent"
    yield from ((f"allergy to {allergen.name}", "present") for allergen in case.allergies or ())
    yield from ((words.FAMILY_PREFIX + item.name, _assertion(present)) for item, present in case.family)
    yield from ((item.name, _assertion(present)) for item, present in case.social)
    yield from ((vital.name, vital.note.format(*value)) for vital, value in case.vitals)
    yield from ((test, "ordered") for test in case.tests)
    if case.weeks:
        yield "return", f"{case.weeks} weeks"
