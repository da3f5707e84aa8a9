"""The simulated clinic: consultations written by a seeded generator, for the quickstart, load tests and tests.

A row is generated in three steps. A *case* is the truth: a patient, treatments, symptoms present and absent,
histories. The *note* is the case in one house style, always the same for the same case; a model learns to write it.
The *dialogue* is the case in everyday words, shuffled and phrased differently each time. The rejected note describes
the same case with one fact changed, so that only a clinical error distinguishes it from the chosen note.

Row i depends on (seed, size, split, i) alone, so any row can be generated without the rows before it. A treatment (a
condition, a drug, its dose) always belongs to the same split, whatever the seed: validation asks for combinations that
are not in training, made of words that are.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from medray.clinic import lexicon as words
from medray.clinic.lexicon import (
    Allergen,
    Condition,
    Drug,
    Exchange,
    Habit,
    Heredity,
    Sex,
    Symptom,
    Turns,
    Vital,
)

T = TypeVar("T")
_Turn = tuple[str, Exchange]  # the topic and the words

# Part of the token fingerprint: raise it with every change of the generated rows. A test compares the rows with it.
REVISION = 1

SIZES: tuple[str, ...] = ("small", "medium", "full")
SPLITS: tuple[str, ...] = ("train", "validation")


class Treatment(NamedTuple):
    condition: Condition
    drug: Drug
    dose: str


class Case(NamedTuple):
    """The facts about a patient.

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


class _Shape(NamedTuple):
    """The numbers of facts of a size. chat: exchanges without facts. padding: probability that a turn is lengthened."""

    conditions: int
    present: int
    absent: int
    vitals: int = 0
    family: int = 0
    social: int = 0
    tests: int = 0
    chat: int = 0
    padding: float = 0.0


_SHAPES = {
    "small": _Shape(conditions=1, present=0, absent=1),
    "medium": _Shape(conditions=2, present=2, absent=3, vitals=2, family=1, social=1, padding=0.15),
    "full": _Shape(
        conditions=3, present=4, absent=8, vitals=5, family=2, social=4, tests=2, chat=8, padding=0.9
    ),
}
# A small row has one of these in addition, so that all kinds of facts occur and the note stays short.
_EXTRAS = ("allergy", "no allergy", "present", "vital", "family", "social", "nothing")
_EXTRA_WEIGHTS = (25, 4, 5, 5, 5, 5, 51)
_FIXED_SHARE = 0.3  # share of exchanges that use a fixed pair of question and answer
_SEXES: tuple[Sex, ...] = ("man", "woman")


def row(seed: int, index: int, *, split: str = "train", size: str = "small") -> dict[str, Any]:
    """Return consultation `index`, a JSON-serialisable row that is the same on every machine and in every process.

    Keys: id, group, lang, dialogue, note, rationale (text); entities: [{start, end, text, type, assertion}], positions
    in characters of the note; relations: [{type, head, tail}], indices into entities; chosen, rejected (notes);
    error: {kind, entity}, the error in `rejected`. Raises ValueError for an unknown split or size or an index below 0.
    """
    if split not in SPLITS or size not in SIZES or index < 0:
        raise ValueError(f"no row {index} of split {split!r}, size {size!r}: index >= 0, {SPLITS}, {SIZES}")
    key = f"{size}-{split}-{seed}"
    digest = hashlib.blake2b(f"{key}-{index}".encode(), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest))
    case = _draw_case(rng, split, size)
    wrong, error = _spoil(rng, case, split)
    sectioned = size == "full"
    note = _write_note(case, sectioned)
    return {
        "id": f"clinic-{key}-{index:06d}",
        "group": f"clinic-{key}-patient-{index:06d}",
        "lang": "en",
        "dialogue": _dialogue(rng, case, split, _SHAPES[size]),
        "note": note.text,
        "rationale": "; ".join(f"{name}: {value}" for name, value in _key_facts(case)),
        "entities": note.entities,
        "relations": note.relations,
        "chosen": note.text,
        "rejected": _write_note(wrong, sectioned).text,
        "error": error,
    }


def rows(
    seed: int, count: int, *, split: str = "train", size: str = "small", start: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield rows start, start + 1, … start + count - 1."""
    for index in range(start, start + count):
        yield row(seed, index, split=split, size=size)


# --- The split of treatments ---


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


def _other_doses(treatment: Treatment, split: str) -> list[str]:
    """Return doses other than the patient's; for training, none that would make a validation treatment."""
    condition, drug, dose = treatment
    return [
        other
        for other in drug.doses
        if other != dose and (split == "validation" or (condition.name, drug.name, other) in _TRAINED)
    ]


# --- The case ---


def _draw_case(rng: random.Random, split: str, size: str) -> Case:
    shape = _SHAPES[size]
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
        present=_sample(rng, [_SYMPTOMS[name] for name in typical], shape.present),
        absent=_sample(
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


def _histories(rng: random.Random, case: Case, shape: _Shape) -> Case:
    """Return the case with everything that a longer consultation asks about."""
    allergic = rng.random() < 0.7
    count = 1 + (shape.conditions > 2 and rng.random() < 0.5)
    return case._replace(
        allergies=_allergies(rng, case, count) if allergic else (),
        vitals=tuple(_measure(rng, vital) for vital in _sample(rng, words.VITALS, shape.vitals)),
        family=tuple((item, rng.random() < 0.6) for item in _sample(rng, words.HEREDITIES, shape.family)),
        social=tuple((item, rng.random() < 0.5) for item in _sample(rng, words.HABITS, shape.social)),
        tests=_sample(rng, words.TESTS, shape.tests),
        weeks=rng.choice((2, 3, 4, 6, 8, 12)) if shape.tests else 0,
        frequency=True,
    )


def _allergies(rng: random.Random, case: Case, count: int) -> tuple[Allergen, ...]:
    given = {item.drug.name for item in case.treatments}
    return _sample(rng, [item for item in words.ALLERGENS if given.isdisjoint(item.avoid)], count)


def _measure(rng: random.Random, vital: Vital) -> tuple[Vital, tuple[str, ...]]:
    drawn = (rng.randint(low, high) for low, high in vital.ranges)
    return vital, tuple(str(number if vital.scale == 1 else number / vital.scale) for number in drawn)


def _sample(rng: random.Random, table: Sequence[T], count: int) -> tuple[T, ...]:
    """Return `count` different items in the order of the table, or all if there are fewer."""
    if count == 1:
        return (rng.choice(table),)
    return tuple(table[place] for place in sorted(rng.sample(range(len(table)), min(count, len(table)))))


def _spoil(rng: random.Random, case: Case, split: str) -> tuple[Case, dict[str, str]]:
    """Return the case with one clinical error, and {kind, entity}: the affected entity of the true note."""
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
        changed = true._replace(dose=rng.choice(_other_doses(true, split)))
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


# --- The note ---


class _Note:
    """A note that is being written. It records the positions of the entities that it mentions."""

    def __init__(self) -> None:
        self.text = ""
        self.entities: list[dict[str, Any]] = []
        self.relations: list[dict[str, Any]] = []
        self._gap = ""

    def section(self, header: str) -> None:
        """Begin a section on a new line."""
        self._gap = f"\n{header}" if self.text else header

    def start(self, opening: str) -> None:
        """Begin a sentence."""
        self.text += self._gap + opening
        self._gap = " "

    def mention(self, text: str, kind: str, assertion: str = "present") -> int:
        """Write an entity and return its index."""
        start = len(self.text)
        self.text += text
        self.entities.append(
            {"start": start, "end": start + len(text), "text": text, "type": kind, "assertion": assertion}
        )
        return len(self.entities) - 1

    def series(self, names: Sequence[str], kind: str, last: str = " and ") -> list[int]:
        """Write "a, b and c.", end the sentence, and return the indices."""
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


def _write_note(case: Case, sectioned: bool) -> _Note:
    note = _Note()
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


def _write_history(note: _Note, case: Case) -> None:
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


def _write_medications(note: _Note, case: Case) -> None:
    for tail, (_, drug, dose) in enumerate(case.treatments):
        note.start("Takes ")
        head = note.mention(f"{drug.name} {dose}", "drug")
        note.text += f" {drug.frequency}." if case.frequency else "."
        note.relations.append({"type": "treats", "head": head, "tail": tail})


def _write_allergies(note: _Note, case: Case) -> None:
    if case.allergies:
        note.start("Allergic to ")
        note.series([allergen.name for allergen in case.allergies], "allergy")
    else:
        note.fact("No ", words.NO_ALLERGIES, "allergy", "absent")


def _write_family(note: _Note, case: Case) -> None:
    for item, present in case.family:
        note.fact(
            "Has " if present else "No ", words.FAMILY_PREFIX + item.name, "family", _assertion(present)
        )


def _write_social(note: _Note, case: Case) -> None:
    for item, present in case.social:
        note.fact("Reports " if present else "Denies ", item.name, "social", _assertion(present))


def _write_vitals(note: _Note, case: Case) -> None:
    note.start("Vitals: ")
    note.series([f"{vital.name} {vital.note.format(*value)}" for vital, value in case.vitals], "vital", ", ")


def _write_plan(note: _Note, case: Case) -> None:
    note.start("Plan: ")
    note.series(case.tests, "test", ", ")
    note.start(f"Return in {case.weeks} weeks.")


def _assertion(present: bool) -> str:
    return "present" if present else "absent"


def _key_facts(case: Case) -> Iterator[tuple[str, str]]:
    """Yield (fact, present | absent | value) in the order of the note."""
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


# --- The dialogue ---


def _dialogue(rng: random.Random, case: Case, split: str, shape: _Shape) -> str:
    """Return alternating lines "Doctor: …" and "Patient: …". After the complaints, the facts come in any order."""
    forms = [rng.choice(item.condition.forms) for item in case.treatments]
    middle = [*_symptom_turns(rng, case), *_drug_turns(rng, case, split, forms), *_history_turns(rng, case)]
    middle += [("chat", exchange) for exchange in _sample(rng, words.CHAT, shape.chat)]
    rng.shuffle(middle)
    turns = [*_opening_turns(rng, case, forms), *middle, *_closing_turns(rng, case)]
    if shape.padding:
        turns = [(kind, _draw_out(rng, kind, exchange, shape.padding)) for kind, exchange in turns]
    return "\n".join(f"Doctor: {_capital(said)}\nPatient: {_capital(answer)}" for _, (said, answer) in turns)


def _opening_turns(rng: random.Random, case: Case, forms: list[str]) -> Iterator[_Turn]:
    who = rng.choice(words.TITLES[case.sex]).format(name=rng.choice(words.SURNAMES))
    yield "opening", _exchange(rng, words.OPENING, who=who, x=forms[0], age=_say(rng, str(case.age)))
    for form in forms[1:]:
        yield "other", _exchange(rng, words.ALSO, x=form)


def _symptom_turns(rng: random.Random, case: Case) -> Iterator[_Turn]:
    asked = (("present", case.present, words.PRESENT), ("absent", case.absent, words.ABSENT))
    for kind, symptoms, phrasings in asked:
        for symptom in symptoms:
            yield kind, _exchange(rng, phrasings, x=rng.choice(symptom.forms), y=rng.choice(symptom.forms))


def _drug_turns(rng: random.Random, case: Case, split: str, forms: list[str]) -> Iterator[_Turn]:
    # With several conditions, only a question that names the condition is clear.
    phrasings = words.DRUG if len(forms) == 1 else words.DRUG_OF_MANY
    for treatment, form in zip(case.treatments, forms, strict=True):
        drug = treatment.drug
        how_often = f" {rng.choice(words.FREQUENCY_FORMS[drug.frequency])}" if case.frequency else ""
        yield (
            "drug",
            _exchange(
                rng,
                phrasings,
                c=form,
                d=drug.name,
                f=how_often,
                n=rng.choice(_dose_forms(treatment.dose)),
                o=rng.choice(_dose_forms(rng.choice(_other_doses(treatment, split)))),
            ),
        )


def _history_turns(rng: random.Random, case: Case) -> Iterator[_Turn]:
    if case.allergies:
        forms = [rng.choice(allergen.forms) for allergen in case.allergies]
        yield "other", _exchange(rng, words.ALLERGIC, a=" and ".join(forms))
    elif case.allergies is not None:
        yield "other", _exchange(rng, words.NOT_ALLERGIC)
    for vital, value in case.vitals:
        yield "vital", _exchange(rng, words.MEASURED, v=rng.choice(vital.spoken).format(*value))
    for item, present in case.family:
        phrasings = words.FAMILY_YES if present else words.FAMILY_NO
        yield "other", _exchange(rng, phrasings, h=rng.choice(item.forms), r=rng.choice(words.RELATIVES))
    for habit, present in case.social:
        yield "other", Exchange(rng.choice(habit.ask), rng.choice(habit.yes if present else habit.no))


def _closing_turns(rng: random.Random, case: Case) -> Iterator[_Turn]:
    for test in case.tests:
        yield "plan", _exchange(rng, words.TEST, t=test)
    if case.weeks:
        yield "plan", _exchange(rng, words.FOLLOW_UP, w=_say(rng, str(case.weeks)))


def _exchange(rng: random.Random, turns: Turns, **slots: str) -> Exchange:
    """Return one phrasing of a kind of exchange with its slots filled."""
    if turns.fixed and rng.random() < _FIXED_SHARE:
        doctor, patient = rng.choice(turns.fixed)
    else:
        doctor, patient = rng.choice(turns.doctor), rng.choice(turns.patient)
    return Exchange(doctor.format_map(slots), patient.format_map(slots))


def _draw_out(rng: random.Random, kind: str, exchange: Exchange, chance: float) -> Exchange:
    """Return the exchange with words around it that contain no fact."""
    doctor, patient = exchange
    if rng.random() < chance and kind not in ("opening", "chat"):
        doctor = f"{rng.choice(words.ACKNOWLEDGEMENTS)} {_capital(doctor)}"
    if rng.random() < chance and kind in words.REMARKS:
        patient = f"{patient} {rng.choice(words.REMARKS[kind])}"
    return Exchange(doctor, patient)


def _capital(line: str) -> str:
    return line[0].upper() + line[1:]


def _say(rng: random.Random, number: str) -> str:
    return rng.choice((number, number_words(number)))


@cache
def _dose_forms(dose: str) -> tuple[str, ...]:
    """Return the ways to say "400 mg": as written, with the unit in full, and all in words."""
    number, unit = dose.split()
    spoken = words.UNIT_FORMS[unit]
    return dose, f"{number} {spoken}", f"{number_words(number)} {spoken}"


@cache
def number_words(number: str) -> str:
    """Return a decimal numeral below 10,000 in words: "12.5" becomes "twelve point five"."""
    whole, _, decimals = number.partition(".")
    spoken = _whole_words(int(whole))
    return (
        " ".join((spoken, "point", *(words.DIGITS[int(digit)] for digit in decimals))) if decimals else spoken
    )


def _whole_words(number: int) -> str:
    if number < 20:
        return words.DIGITS[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return words.TENS[tens] + (f"-{words.DIGITS[ones]}" if ones else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    head, rest = divmod(number, size)
    return f"{_whole_words(head)} {name}" + (f" {_whole_words(rest)}" if rest else "")
