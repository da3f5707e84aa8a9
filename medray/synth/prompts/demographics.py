"""The patients of part 3: country, age, sex and gender identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medray.errors import InputError
from medray.synth.draws import Draws
from medray.synth.lists.values import Age, Lists

SEX_RATES = {"Male": 0.49, "Female": 0.49, "Intersex": 0.02}
NO_MALE = "Obstetrics and Gynecology"  # a specialty whose patients are female or intersex
GENDER_FROM = "Adolescents"  # youngest category whose patients have a gender identity

# First and last category of topics that do not concern all ages.
TOPIC_AGES = {
    "Pediatrics": ("Infants", "Adolescents"),
    "Geriatrics": ("Older Adults", "Centenarians"),
    "Neonatology": ("Infants", "Infants"),
    "Pain Management": ("Adults", "Elderly"),
    "Physical Medicine and Rehabilitation": ("Adults", "Elderly"),
    "Occupational Health": ("Adolescents", "Older Adults"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """One patient. gender: None below Adolescents."""

    country: str
    age: str
    age_range: str
    sex: str
    gender: str | None


def allowed_ages(lists: Lists, profession: str | None, specialty: str | None, topic: str | None) -> list[Age]:
    """Return the age categories of a context, in their order. Raises InputError if none is left."""
    names = [age.name for age in lists.ages]
    left = set(names)
    if profession is not None and specialty is not None:
        left &= set(lists.specialty_ages[profession, specialty])
    if topic in TOPIC_AGES:
        first, last = TOPIC_AGES[topic]
        if first not in names or last not in names:
            raise InputError(
                f"the topic {topic!r} needs the age categories {first!r} and {last!r}",
                file="age_categories.json",
                key="category",
                fix=f"add them, or remove the topic {topic!r} from medical_topics.json",
            )
        left &= set(names[names.index(first) : names.index(last) + 1])
    if not left:
        raise InputError(
            f"no age category fits both the specialty {specialty!r} and the topic {topic!r}",
            file="patient_age_medical_profession.json",
            key=str(profession),
            fix="give the specialty an age category that the topic has",
        )
    return [age for age in lists.ages if age.name in left]


def draw_patients(
    lists: Lists, ages: Sequence[Age], specialty: str | None, count: int, draws: Draws
) -> list[Patient]:
    """Return `count` patients. With four, each lives in a country of another income group."""
    per_group = -(-count // len(lists.countries))
    pool = [
        country for group in lists.countries for country in draws.sample(group, min(per_group, len(group)))
    ]
    while len(pool) < count:  # a group with few countries
        pool.append(draws.choice(lists.all_countries))
    return [_patient(lists, ages, specialty, country, draws) for country in draws.sample(pool, count)]


def _patient(lists: Lists, ages: Sequence[Age], specialty: str | None, country: str, draws: Draws) -> Patient:
    age = draws.choice(ages)
    sexes = [each for each in lists.sexes if not (specialty == NO_MALE and each.name == "Male")]
    sex = draws.weighted(sexes, [SEX_RATES[each.name] for each in sexes])
    gender = draws.weighted(sex.genders, sex.rates)
    return Patient(
        country=country,
        age=age.name,
        age_range=age.range,
        sex=sex.name,
        gender=gender if _has_gender(lists, age) else None,
    )


def _has_gender(lists: Lists, age: Age) -> bool:
    names = [each.name for each in lists.ages]
    return GENDER_FROM not in names or names.index(age.name) >= names.index(GENDER_FROM)
