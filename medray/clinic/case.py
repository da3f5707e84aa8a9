"""The facts about a simulated patient: treatments, symptoms and histories; and the same facts with one clinical error."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from medray.clinic import lexicon as words
from medray.clinic.lexicon import Allergen, Condition, Drug, Habit, Heredity, Sex, Symptom, Vital

T = TypeVar("T")


class Treatment(NamedTuple):
    condition: Condition
    drug: Drug
    dose: str


class Case(NamedTuple):
    """The facts about a simulated patient, from which note and dialogue are written.

    allergies: None if nobody asked, empty if there are none. weeks: weeks until the next visit, or 0.
    frequency: whether the note says how often a drug is taken.
    """

    age: int
    sex: Sex
    treatments: tuple[Treatment, ...]
    present: tuple[Symptom, ...]
    absent: tuple[Symptom, ...]
    allergies: tuple[Allergen, ...] | None = None
    vitals: tuple[tuple[Vital, tuple[str, ...]], ...] = ()
    family: tuple[tuple[Heredity, bool], ...] = ()
    social: tuple[tuple[Habit, bool], ...] = ()
    tests: tuple[str, ...] = ()
    weeks: int = 0
    frequency: bool = False


class Shape(NamedTuple):
    """The numbers of facts in a consultation of one size. chat: number of exchanges without facts.

    padding: probability that a turn is made longer.
    """

    conditions: int
    present: int
    absent: int
    vitals: int = 0
    family: int = 0
    social: int = 0
    tests: int = 0
    chat: int = 0
    padding: float = 0.0


SHAPES = {
    "small": Shape(conditions=1, present=0, absent=1),
    "medium": Shape(conditions=2, present=2, absent=3, vitals=2, family=1, social=1, padding=0.15),
    "full": Shape(
        conditions=3, present=4, absent=8, vitals=5, family=2, social=4, tests=2, chat=8, padding=0.9
    ),
}
# A small row has one of these in addition, so that all kinds of facts occur and the note stays short.
_EXTRAS = ("allergy", "no allergy", "present", "vital", "family", "social", "nothing")
_EXTRA_WEIGHTS = (25, 4, 5, 5, 5, 5, 51)
_SEXES: tuple[Sex, ...] = ("man", "woman")


def _digest(treatment: Treatment) -> bytes:
    name = f"{treatment.condition.name}|{treatment.drug.name}|{treatment.dose}"
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def _held_out(treatments: Sequence[Treatment]) -> frozenset[Treatment]:
    """Return one treatment per drug, and one per condition that has none yet, chosen by digest, so independent of seeds.

    At most one dose of a drug for a condition is held out, which leaves at least two for training.
    """
    ranked = sorted(treatments, key=_digest)
    chosen = {treatment.drug.name: treatment for treatment in reversed(ranked)}
    held = set(chosen.values())
    covered = {treatment.condition.name for treatment in held}
    for treatment in ranked:
        if treatment.condition.name not in covered:
            covered.add(treatment.condition.name)
            held.add(treatment)
    return frozenset(held)


def _pools() -> dict[str, tuple[tuple[Treatment, ...], ...]]:
    """Return the treatments of every condition, for each split."""
    drugs = {drug.name: drug for drug in words.DRUGS}
    table = [
        [Treatment(condition, drugs[name], dose) for name in condition.drugs for dose in drugs[name].doses]
        for condition in words.CONDITIONS
    ]
    held = _held_out([treatment for line in table for treatment in line])
    return {
        "train": tuple(tuple(item for item in line if item not in held) for line in table),
        "validation": tuple(tuple(item for item in line if item in held) for line in table),
    }


_POOLS = _pools()
_TRAINED = frozenset(
    (item.condition.name, item.drug.name, item.dose) for line in _POOLS["train"] for item in line
)
_SYMPTOMS = {symptom.name: symptom for symptom in words.SYMPTOMS}


def other_doses(treatment: Treatment, split: str) -> list[str]:
    """Return doses of a drug other than the patient's.

    For training, no dose makes a treatment of the validation split.
    """
    condition, drug, dose = treatment
    return [
        other
        for other in drug.doses
        if other != dose and (split == "validation" or (condition.name, drug.name, other) in _TRAINED)
    ]


def draw_case(rng: random.Random, split: str, size: str) -> Case:
    shape = SHAPES[size]
    first = rng.choice(rng.choice(_POOLS[split]))
    sex = rng.choice(_SEXES if first.condition.sex is None else (first.condition.sex,))
    age = rng.randint(*first.condition.ages)
    treatments = [first]
    while len(treatments) < shape.conditions:
        other = rng.choice(rng.choice(_POOLS[split]))
        if _goes_with(other, treatments, age, sex):
            treatments.append(other)
    typical = dict.fromkeys(name for item in treatments for name in item.condition.symptoms)
    case = Case(
        age=age,
        sex=sex,
        treatments=tuple(treatments),
        present=sample(rng, [_SYMPTOMS[name] for name in typical], shape.present),
        absent=sample(
            rng, [symptom for symptom in words.SYMPTOMS if symptom.name not in typical], shape.absent
        ),
    )
    return _small_extra(rng, case) if size == "small" else _histories(rng, case, shape)


def _goes_with(other: Treatment, treatments: list[Treatment], age: int, sex: Sex) -> bool:
    """Return whether `other` can be a chronic second condition. Two conditions that share a drug are excluded."""
    condition = other.condition
    youngest, oldest = condition.ages
    if condition.acute or condition.sex not in (None, sex) or not youngest <= age <= oldest:
        return False
    return not any(
        condition.name == item.condition.name
        or item.drug.name in condition.drugs
        or other.drug.name in item.condition.drugs
        or frozenset((condition.name, item.condition.name)) in words.EXCLUSIVE
        for item in treatments
    )


def _small_extra(rng: random.Random, case: Case) -> Case:
    extra = rng.choices(_EXTRAS, _EXTRA_WEIGHTS)[0]
    if extra == "allergy":
        return case._replace(allergies=_allergies(rng, case, 1))
    if extra == "no allergy":
        return case._replace(allergies=())
    if extra == "present":
        return case._replace(present=(_SYMPTOMS[rng.choice(case.treatments[0].condition.symptoms)],))
    if extra == "vital":
        return case._replace(vitals=(_measure(rng, rng.choice(words.VITALS)),))
    if extra == "family":
        return case._replace(family=((rng.choice(words.HEREDITIES), rng.random() < 0.6),))
    if extra == "social":
        return case._replace(social=((rng.choice(words.HABITS), rng.random() < 0.6),))
    return case


def _histories(rng: random.Random, case: Case, shape: Shape) -> Case:
    """Return the case with everything that a longer consultation asks about."""
    allergic = rng.random() < 0.7
    count = 1 + (shape.conditions > 2 and rng.random() < 0.5)
    return case._replace(
        allergies=_allergies(rng, case, count) if allergic else (),
        vitals=tuple(_measure(rng, vital) for vital in sample(rng, words.VITALS, shape.vitals)),
        family=tuple((item, rng.random() < 0.6) for item in sample(rng, words.HEREDITIES, shape.family)),
        social=tuple((item, rng.random() < 0.5) for item in sample(rng, words.HABITS, shape.social)),
        tests=sample(rng, words.TESTS, shape.tests),
        weeks=rng.choice((2, 3, 4, 6, 8, 12)) if shape.tests else 0,
        frequency=True,
    )


def _allergies(rng: random.Random, case: Case, count: int) -> tuple[Allergen, ...]:
    given = {item.drug.name for item in case.treatments}
    return sample(rng, [item for item in words.ALLERGENS if given.isdisjoint(item.avoid)], count)


def _measure(rng: random.Random, vital: Vital) -> tuple[Vital, tuple[str, ...]]:
    drawn = (rng.randint(low, high) for low, high in vital.ranges)
    return vital, tuple(str(number if vital.scale == 1 else number / vital.scale) for number in drawn)


def sample(rng: random.Random, table: Sequence[T], count: int) -> tuple[T, ...]:
    """Draw `count` different items, in the order of the table; all items if there are fewer."""
    if count == 1:
        return (rng.choice(table),)
    return tuple(table[place] for place in sorted(rng.sample(range(len(table)), min(count, len(table)))))


def spoil(rng: random.Random, case: Case, split: str) -> tuple[Case, dict[str, str]]:
    """Return the case with one clinical error, and {kind, entity}: the kind of error and the affected entity of the
    true note.
    """
    kind = rng.choice(("flipped_negation", "wrong_dose", "missed_allergy")[: 3 if case.allergies else 2])
    if kind == "missed_allergy" and case.allergies:
        missed = rng.choice(case.allergies)
        left = tuple(item for item in case.allergies if item is not missed)
        # A single allergy is either left out or denied.
        wrong = case._replace(allergies=left or rng.choice((None, ())))
        return wrong, {"kind": kind, "entity": missed.name}
    if kind == "wrong_dose":
        place = rng.randrange(len(case.treatments))
        true = case.treatments[place]
        changed = true._replace(dose=rng.choice(other_doses(true, split)))
        wrong = case._replace(treatments=(*case.treatments[:place], changed, *case.treatments[place + 1 :]))
        return wrong, {"kind": kind, "entity": f"{true.drug.name} {true.dose}"}
    flipped = rng.choice(case.present + case.absent)
    if flipped in case.present:
        present = tuple(item for item in case.present if item is not flipped)
        wrong = case._replace(present=present, absent=(*case.absent, flipped))
    else:
        absent = tuple(item for item in case.absent if item is not flipped)
        wrong = case._replace(present=(*case.present, flipped), absent=absent)
    return wrong, {"kind": kind, "entity": flipped.name}
