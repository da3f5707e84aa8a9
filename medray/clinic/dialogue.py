"""The dialogue of doctor and patient about a case, in everyday words: shuffled, and phrased differently each time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from medray.clinic import lexicon as words
from medray.clinic.case import Case, Shape, other_doses, sample
from medray.clinic.lexicon import Exchange, Turns

_Turn = tuple[str, Exchange]  # the topic and the words
_FIXED_SHARE = 0.3  # share of exchanges that use a fixed pair of question and answer


def dialogue(rng: random.Random, case: Case, split: str, shape: Shape) -> str:
    """Write a dialogue as alternating lines "Doctor: …" and "Patient: …". After the complaints, the facts come in any
    order.
    """
    forms = [rng.choice(item.condition.forms) for item in case.treatments]
    middle = [*_symptom_turns(rng, case), *_drug_turns(rng, case, split, forms), *_history_turns(rng, case)]
    middle += [("chat", exchange) for exchange in sample(rng, words.CHAT, shape.chat)]
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
                o=rng.choice(_dose_forms(rng.choice(other_doses(treatment, split)))),
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
    """Write a decimal number below 10,000 in words: "12.5" becomes "twelve point five"."""
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
