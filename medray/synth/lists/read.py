"""Reading of the resource files. An error names the file and the index of the entry, counted from 0."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.synth.lists.values import (
    ALL_AGES,
    INCOME_GROUPS,
    SEXES,
    Age,
    Domain,
    Lists,
    Profession,
    Setting,
    Sex,
    StyleTitle,
    Task,
)

OWN = Path(__file__).parents[1] / "resources"
LARGEST = 16 << 20  # bytes of a resource file; the published ones have at most 100,000
STYLE_WEIGHTS = (2.0, 2.0, 2.0, 2.0, 1.0, 1.0)  # of the published titles, in their order
STYLE_TURNS = {5: 3, 6: 1}  # of the published titles: interaction and creativity
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LANGUAGES = {
    "arabic": "ar", "bengali": "bn", "chinese": "zh", "dutch": "nl", "english": "en", "french": "fr",
    "german": "de", "hindi": "hi", "indonesian": "id", "italian": "it", "japanese": "ja", "korean": "ko",
    "mandarin": "zh", "polish": "pl", "portuguese": "pt", "russian": "ru", "spanish": "es", "swahili": "sw",
    "turkish": "tr", "urdu": "ur", "vietnamese": "vi",
}  # fmt: skip

FILES = (
    "medical_ai_tasks.json", "medical_professions.json", "medical_subtopics.json", "medical_topics.json",
    "medical_settings.json", "answer_styles.json", "age_categories.json", "patient_age_medical_profession.json",
    "sex_and_gender.json", "countries_by_income_category.csv",
)  # fmt: skip

Kind = type | tuple[type, ...]


class _File:
    """One resource file: its path, and its entries, which are checked as they are read."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self.path = OWN / name if folder is None or not (folder / name).exists() else folder / name
        self.text = storage.read_bounded(self.path, LARGEST)

    def wrong(self, what: str, index: int | None, fix: str) -> InputError:
        return InputError(what, file=self.path, key=None if index is None else f"[{index}]", fix=fix)

    def entries(
        self, kinds: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
    ) -> list[dict[str, Any]]:
        """Return the objects of the list in the file. kinds: its keys, with the types of their values."""
        found = storage.parse_json(self.text, self.path, fix="correct the JSON of the file")
        if not isinstance(found, list) or not found:
            raise self.wrong("is not a list of objects", None, "write a JSON list with at least one object")
        known = {**kinds, **(optional or {})}
        for index, entry in enumerate(found):
            if not isinstance(entry, dict):
                raise self.wrong(
                    "this entry is not an object", index, f"write an object with {', '.join(kinds)}"
                )
            for name in entry:
                if name not in known:
                    raise self.wrong(
                        f"there is no such key: {name[:40]!r}", index, f"use the keys {', '.join(known)}"
                    )
            for name in kinds:
                if name not in entry:
                    raise self.wrong(f"{name} is missing", index, f"add {name} to this entry")
            for name, value in entry.items():
                if not _is(value, known[name]):
                    raise self.wrong(
                        f"{name} has the wrong type or is empty",
                        index,
                        f"write {name} as {_words(known[name])}",
                    )
        return found

    def refuse_repeated(self, names: Iterable[object]) -> None:
        seen: dict[object, int] = {}
        for index, name in enumerate(names):
            if name in seen:
                raise self.wrong(f"repeats entry [{seen[name]}]", index, "remove one of the two entries")
            seen[name] = index

    def texts(self, index: int, name: str, values: list[Any]) -> tuple[str, ...]:
        """Return a list of texts that are not empty and not repeated."""
        for number, value in enumerate(values):
            if not _is(value, str):
                raise self.wrong(f"{name}[{number}] is not a text, or is empty", index, "write it as a text")
            if value in values[:number]:
                raise self.wrong(
                    f"{name}[{number}] repeats {name}[{values.index(value)}]", index, "remove one of the two"
                )
        return tuple(values)


def read_lists(folder: str | None) -> Lists:
    """Return all lists. folder: files in it replace the lists of medray.

    Raises InputError with the file and the index for unknown or missing keys, wrong types, repeated entries, and
    categories that another file does not have.
    """
    own = None if folder is None else Path(folder)
    if own is not None and not own.is_dir():
        raise InputError(
            "there is no such folder",
            key="prompts.resources",
            value=folder,
            fix="use the folder of your lists",
        )
    if own is not None and not any((own / file).exists() for file in FILES):
        raise InputError(
            "no file in this folder has the name of a list, so that none of medray's lists would be replaced",
            key="prompts.resources",
            value=folder,
            fix=f"name the files {', '.join(FILES)}",
        )
    professions = _professions(own)
    ages = _ages(own)
    return Lists(
        tasks=_tasks(own),
        professions=professions,
        domains=_domains(own),
        topics=_topics(own),
        settings=_settings(own),
        styles=_styles(own),
        ages=ages,
        specialty_ages=_specialty_ages(own, ages, professions),
        sexes=_sexes(own),
        countries=_countries(own),
    )


def _tasks(folder: Path | None) -> tuple[Task, ...]:
    file = _File(folder, "medical_ai_tasks.json")
    rows = file.entries(
        {"task": str, "description": str, "max_token": int, "additional_instruction": (str, type(None))}
    )
    file.refuse_repeated(row["task"] for row in rows)
    for index, row in enumerate(rows):
        if not 1 <= row["max_token"] <= 1_000_000:
            raise file.wrong("max_token is not a positive number of tokens", index, "set max_token to 150")
    return tuple(
        Task(
            number=number,
            name=row["task"],
            description=row["description"],
            max_tokens=row["max_token"],
            instruction=row["additional_instruction"] or "",
        )
        for number, row in enumerate(rows)
    )


def _professions(folder: Path | None) -> tuple[Profession, ...]:
    file = _File(folder, "medical_professions.json")
    rows = file.entries({"profession": str, "specialties": list})
    file.refuse_repeated(row["profession"] for row in rows)
    return tuple(
        Profession(name=row["profession"], specialties=file.texts(index, "specialties", row["specialties"]))
        for index, row in enumerate(rows)
    )


def _domains(folder: Path | None) -> tuple[Domain, ...]:
    """Return the domains. The published file names some subtopics in two domains, so only a domain's own must differ."""
    file = _File(folder, "medical_subtopics.json")
    rows = file.entries({"domain": str, "subtopic": list})
    file.refuse_repeated(row["domain"] for row in rows)
    return tuple(
        Domain(name=row["domain"], subtopics=file.texts(index, "subtopic", row["subtopic"]))
        for index, row in enumerate(rows)
    )


def _topics(folder: Path | None) -> tuple[str, ...]:
    file = _File(folder, "medical_topics.json")
    topics = [row["topic"] for row in file.entries({"topic": str})]
    file.refuse_repeated(topics)
    return tuple(topics)


def _settings(folder: Path | None) -> tuple[Setting, ...]:
    file = _File(folder, "medical_settings.json")
    rows = file.entries({"setting": str, "description": str})
    file.refuse_repeated(row["setting"] for row in rows)
    return tuple(Setting(name=row["setting"], description=row["description"]) for row in rows)


def _styles(folder: Path | None) -> tuple[StyleTitle, ...]:
    file = _File(folder, "answer_styles.json")
    optional: dict[str, Kind] = {"weight": (int, float), "turns": int, "language_options": dict}
    rows = file.entries({"number": int, "title": str, "options": list}, optional)
    file.refuse_repeated(row["number"] for row in rows)
    found = []
    for index, row in enumerate(rows):
        options = file.texts(index, "options", row["options"])
        if not 1 <= row["number"] <= 99 or len(options) > len(_LETTERS):
            raise file.wrong(
                "number is not from 1 to 99, or there are more than 26 options",
                index,
                "number the titles from 1",
            )
        if row.get("turns", 1) not in (1, 2, 3):
            raise file.wrong("turns is not 1, 2 or 3", index, "set turns to 1, 2 or 3")
        weight = float(row.get("weight", STYLE_WEIGHTS[min(index, len(STYLE_WEIGHTS) - 1)]))
        if not 0 <= weight < float("inf"):
            raise file.wrong("weight is not a number of at least 0", index, "set weight to 1")
        found.append(
            StyleTitle(
                number=row["number"],
                name=row["title"],
                options=options,
                weight=weight,
                turns=row.get("turns", STYLE_TURNS.get(row["number"])),
                languages=_languages(file, index, row, options),
            )
        )
    if sum(each.weight > 0 for each in found if each.number != 4) < 2:
        raise file.wrong("fewer than two titles have a weight", None, "give at least three titles a weight")
    return tuple(found)


def _languages(file: _File, index: int, row: dict[str, Any], options: tuple[str, ...]) -> dict[str, str]:
    """Return the languages of a title's options: those that the file names, else those whose names the options contain."""
    if "language_options" in row:
        for letter, code in row["language_options"].items():
            if letter not in _LETTERS[: len(options)] or not _is(code, str) or len(code) != 2:
                raise file.wrong(
                    "language_options does not map letters of options to two-letter codes",
                    index,
                    'write it as {"A": "fr"}',
                )
        return dict(row["language_options"])
    if row["number"] != 4:
        return {}
    named: dict[str, str] = {}
    for letter, option in zip(_LETTERS, options[:8], strict=False):  # A to H of the published title
        words = option.lower().replace(".", " ").replace(",", " ").split()
        code = next((_LANGUAGES[word] for word in words if word in _LANGUAGES), None)
        named |= {letter: code} if code else {}
    return named


def _ages(folder: Path | None) -> tuple[Age, ...]:
    file = _File(folder, "age_categories.json")
    rows = file.entries({"category": str, "range": str})
    file.refuse_repeated(row["category"] for row in rows)
    return tuple(Age(name=row["category"], range=row["range"]) for row in rows)


def _specialty_ages(
    folder: Path | None, ages: tuple[Age, ...], professions: tuple[Profession, ...]
) -> dict[tuple[str, str], tuple[str, ...]]:
    file = _File(folder, "patient_age_medical_profession.json")
    known = [age.name for age in ages]
    specialties = {(each.name, name) for each in professions for name in each.specialties}
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for index, row in enumerate(file.entries({"profession": str, "specialties": list})):
        for pair in row["specialties"]:
            if not (isinstance(pair, list) and len(pair) == 2 and _is(pair[0], str) and _is(pair[1], list)):
                raise file.wrong(
                    "a specialty is not a list of its name and its age categories",
                    index,
                    'write it as ["Cardiology", ["Adults", "Elderly"]]',
                )
            name, allowed = pair[0], [ALL_AGES] if pair[1] == [ALL_AGES] else pair[1]
            if (row["profession"], name) in found:
                raise file.wrong(f"{name!r} is repeated", index, "remove one of the two entries")
            if unknown := next((each for each in allowed if each not in [*known, ALL_AGES]), None):
                raise file.wrong(
                    f"{str(unknown)[:40]!r} of {name!r} is not a category of age_categories.json",
                    index,
                    f"use {ALL_AGES!r}, or names of that file",
                )
            found[row["profession"], name] = tuple(known if ALL_AGES in allowed else allowed)
    if missing := sorted(specialties - set(found)):
        raise file.wrong(
            f"the ages of {len(missing)} specialties are missing, the first is {missing[0][1]!r} of {missing[0][0]!r}",
            None,
            f"add it with {ALL_AGES!r}, or with its own categories",
        )
    return found


def _sexes(folder: Path | None) -> tuple[Sex, ...]:
    file = _File(folder, "sex_and_gender.json")
    rows = file.entries({"sex": str, "gender": list, "rates": list})
    file.refuse_repeated(row["sex"] for row in rows)
    found = []
    for index, row in enumerate(rows):
        genders, rates = file.texts(index, "gender", row["gender"]), row["rates"]
        if row["sex"] not in SEXES:
            raise file.wrong("the probability of this sex is not known", index, f"use {', '.join(SEXES)}")
        if len(genders) != len(rates) or not all(_is(rate, (int, float)) and rate >= 0 for rate in rates):
            raise file.wrong("rates does not have one number per gender", index, "write one rate per gender")
        if abs(sum(rates) - 1) > 1e-6:
            raise file.wrong(f"the rates sum to {sum(rates):g}, not to 1", index, "correct the rates")
        found.append(Sex(name=row["sex"], genders=genders, rates=tuple(map(float, rates))))
    if missing := [name for name in SEXES if name not in {each.name for each in found}]:
        raise file.wrong(f"{missing[0]} is missing", None, f"add an entry for {missing[0]}")
    return tuple(found)


def _countries(folder: Path | None) -> tuple[tuple[str, ...], ...]:
    file = _File(folder, "countries_by_income_category.csv")
    try:
        rows = list(csv.reader(io.StringIO(file.text.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error):
        raise file.wrong("is not CSV in UTF-8", None, "save it as CSV in UTF-8") from None
    if not rows or [name.strip() for name in rows[0]] != ["Country", "Income Category"]:
        raise file.wrong("has another header", None, "write the first line as Country,Income Category")
    groups: dict[str, list[str]] = {name: [] for name in INCOME_GROUPS}
    seen: dict[str, int] = {}
    for index, row in enumerate(rows[1:]):
        if not row:
            continue
        if len(row) != 2 or not row[0].strip() or row[1].strip() not in groups:
            raise file.wrong(
                "is not a country and an income group", index, f"use one of {', '.join(INCOME_GROUPS)}"
            )
        name = row[0].strip()
        if name in seen:
            raise file.wrong(f"repeats entry [{seen[name]}]", index, "remove one of the two entries")
        seen[name] = index
        groups[row[1].strip()].append(name)
    if empty := [name for name, countries in groups.items() if not countries]:
        raise file.wrong(f"no country has the income group {empty[0]}", None, "add a country of this group")
    return tuple(tuple(each) for each in groups.values())


def _is(value: object, kind: Kind) -> bool:
    """Return whether a JSON value has a type. Texts and lists must not be empty; true is not a number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return False
    return bool(value.strip()) or kind is not str if isinstance(value, str) else value != []


def _words(kind: Kind) -> str:
    names = {
        str: "a text",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return " or ".join(names[each] for each in (kind if isinstance(kind, tuple) else (kind,)))
