"""The values of the resource files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

INCOME_GROUPS = ("High-income", "Upper middle income", "Lower middle income", "Low-income")
SEXES = ("Male", "Female", "Intersex")
ALL_AGES = "All age categories"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task that a medical assistant is asked to do. number: zero-based index in its file."""

    number: int
    name: str
    description: str
    max_tokens: int
    instruction: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Profession:
    name: str
    specialties: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    name: str
    subtopics: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    name: str
    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleTitle:
    """A kind of request about the form of an answer, with its options.

    turns: number of turns of a chat with this style; None: not decided by it. languages: ISO 639-1 codes of the options
    that ask for a language, by letter.
    """

    number: int
    name: str
    options: tuple[str, ...]
    weight: float
    turns: int | None
    languages: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Age:
    name: str
    range: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sex:
    """A sex, with the gender identities given it and their probabilities, which sum to 1."""

    name: str
    genders: tuple[str, ...]
    rates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lists:
    """All lists of one synthesis.

    specialty_ages: allowed age categories by (profession, specialty); a pair that is missing allows all. countries: by
    income group, in the order of INCOME_GROUPS.
    """

    tasks: tuple[Task, ...]
    professions: tuple[Profession, ...]
    domains: tuple[Domain, ...]
    topics: tuple[str, ...]
    settings: tuple[Setting, ...]
    styles: tuple[StyleTitle, ...]
    ages: tuple[Age, ...]
    specialty_ages: Mapping[tuple[str, str], tuple[str, ...]]
    sexes: tuple[Sex, ...]
    countries: tuple[tuple[str, ...], ...]

    @property
    def specialties(self) -> list[tuple[str, str]]:
        """Return all (profession, specialty), in the order of the file."""
        return [(each.name, name) for each in self.professions for name in each.specialties]

    @property
    def all_countries(self) -> list[str]:
        return [name for group in self.countries for name in group]
