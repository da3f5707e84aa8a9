"""Rows of the simulated clinic depend on (seed, index) alone, its splits are disjoint, a dictionary reads its notes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from medray.clinic import consultations
from medray.clinic import lexicon as clinic_lexicon
from medray.clinic.dialogue import number_words

SURFACES = clinic_lexicon.surfaces()
VITAL = "|".join(
    rf"{re.escape(vital.name)} [0-9][0-9./]*[0-9](?:%| kg| C)?" for vital in clinic_lexicon.VITALS
)
ENTITY = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, SURFACES), key=len, reverse=True))}|{VITAL})")
CUE = re.compile(r"\b(?:Denies|No|Negative for) $")
KINDS = {"flipped_negation", "wrong_dose", "missed_allergy"}


def read_note(note: str) -> Counter[tuple[str, str, str]]:
    """Count (text, type, assertion) in the text alone, by the dictionary and the cue directly before."""
    return Counter(
        (
            match[0],
            SURFACES.get(match[0], "vital"),
            "absent" if CUE.search(note, 0, match.start()) else "present",
        )
        for match in ENTITY.finditer(note)
    )


def entities(row: dict[str, Any]) -> Counter[tuple[str, str, str]]:
    return Counter((item["text"], item["type"], item["assertion"]) for item in row["entities"])


def treatments(row: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the pairs (condition, drug with dose) of the note."""
    text = [entity["text"] for entity in row["entities"]]
    return {(text[item["tail"]], text[item["head"]]) for item in row["relations"] if item["type"] == "treats"}


def mean_tokens(texts: Iterable[str]) -> float:
    """Return about what the SmolLM2 tokenizer counts for everyday words: 0.75 words per token."""
    lengths = [len(text.split()) / 0.75 for text in texts]
    return sum(lengths) / len(lengths)


@pytest.fixture(scope="module", params=consultations.SIZES)
def sample(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    count = {"small": 600, "medium": 200, "full": 80}[request.param]
    return [
        row
        for split in consultations.SPLITS
        for row in consultations.rows(3, count, split=split, size=request.param)
    ]


def test_a_row_does_not_depend_on_the_rows_before_it() -> None:
    stream = list(consultations.rows(7, 50))
    assert [consultations.row(7, index) for index in reversed(range(50))] == stream[::-1]
    assert list(consultations.rows(7, 5, start=40)) == stream[40:45]
    assert list(consultations.rows(7, 0)) == []
    assert consultations.row(7, 9_999_999)["id"] == "clinic-small-train-7-9999999"


def test_a_row_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib, json; from medray.clinic import consultations as clinic;"
        "print(hashlib.sha256(json.dumps([clinic.row(1, i, size=s) for s in clinic.SIZES for i in range(5)])"
        ".encode()).hexdigest())"
    )
    rows = [consultations.row(1, index, size=size) for size in consultations.SIZES for index in range(5)]
    expected = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def test_rows_are_those_of_the_revision() -> None:
    """Compare rows with a hash. `REVISION` is part of the token fingerprint: if rows change, raise it and update both here."""
    rows = [
        consultations.row(seed, index, split=split, size=size)
        for seed in (0, 7)
        for split in consultations.SPLITS
        for size in consultations.SIZES
        for index in range(20)
    ]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    assert (consultations.REVISION, digest) == (1, "ae11cc69550d0bc9")


def test_seed_split_size_and_index_all_matter() -> None:
    keys = [
        (seed, split, size)
        for seed in (0, 1)
        for split in consultations.SPLITS
        for size in consultations.SIZES
    ]
    rows = [row for seed, split, size in keys for row in consultations.rows(seed, 20, split=split, size=size)]
    assert len({row["id"] for row in rows}) == len({row["group"] for row in rows}) == len(rows)
    assert len({row["dialogue"] for row in rows}) == len(rows)


def test_rows_are_json_with_the_promised_columns(sample: list[dict[str, Any]]) -> None:
    assert json.loads(json.dumps(sample)) == sample
    assert all(
        set(row)
        == {
            *("id", "group", "lang", "dialogue", "note", "rationale"),
            *("entities", "relations", "chosen", "rejected", "error"),
        }
        for row in sample
    )


def test_offsets_find_the_entity_in_the_note(sample: list[dict[str, Any]]) -> None:
    for row in sample:
        spans = [(item["start"], item["end"]) for item in row["entities"]]
        assert [row["note"][start:end] for start, end in spans] == [item["text"] for item in row["entities"]]
        assert all(before[1] < after[0] for before, after in pairwise(spans))


def test_a_dictionary_and_a_negation_rule_read_the_whole_note(sample: list[dict[str, Any]]) -> None:
    for row in sample:
        assert read_note(row["note"]) == entities(row), row["note"]


def test_relations_connect_the_right_entities(sample: list[dict[str, Any]]) -> None:
    conditions = {condition.name: condition for condition in clinic_lexicon.CONDITIONS}
    for row in sample:
        found = row["entities"]
        for item in row["relations"]:
            head, condition = found[item["head"]]["text"], conditions[found[item["tail"]]["text"]]
            if item["type"] == "treats":
                assert head.rsplit(" ", 2)[0] in condition.drugs
            else:
                assert (item["type"], head in condition.symptoms) == ("symptom_of", True)
        assert len(treatments(row)) == sum(item["type"] == "drug" for item in found)


def test_nobody_is_given_a_drug_that_their_allergy_forbids(sample: list[dict[str, Any]]) -> None:
    avoid = {allergen.name: allergen.avoid for allergen in clinic_lexicon.ALLERGENS}
    for row in sample:
        given = {drug.rsplit(" ", 2)[0] for _, drug in treatments(row)}
        assert all(given.isdisjoint(avoid.get(item["text"], ())) for item in row["entities"])


def test_validation_combinations_never_occur_in_training() -> None:
    seen: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for split in consultations.SPLITS:
        for seed in (0, 11):
            for row in consultations.rows(seed, 3000, split=split):
                seen[split] |= treatments(row)
        for row in consultations.rows(5, 300, split=split, size="full"):
            seen[split] |= treatments(row)
    assert len(seen["train"]) > 500
    assert len(seen["validation"]) > 100
    assert not seen["train"] & seen["validation"]
    for split in consultations.SPLITS:  # and still no word of validation is new
        assert {condition for condition, _ in seen[split]} == {
            item.name for item in clinic_lexicon.CONDITIONS
        }
        assert {drug.rsplit(" ", 2)[0] for _, drug in seen[split]} == {
            item.name for item in clinic_lexicon.DRUGS
        }


def test_training_text_names_no_validation_treatment_as_an_error_either() -> None:
    held = set().union(*(treatments(row) for row in consultations.rows(0, 4000, split="validation")))
    for row in consultations.rows(0, 3000):
        ((condition, _),) = treatments(row)
        wrong = [text for text, kind, _ in read_note(row["rejected"]) if kind == "drug"]
        assert (condition, wrong[0]) not in held


def test_the_vocabulary_is_as_large_as_promised_and_unambiguous() -> None:
    lexicon = clinic_lexicon
    assert len({item.name for item in lexicon.CONDITIONS}) >= 60
    assert len({item.name for item in lexicon.DRUGS}) >= 80
    assert all(len(set(drug.doses)) >= 3 for drug in lexicon.DRUGS)
    tables = (lexicon.CONDITIONS, lexicon.DRUGS, lexicon.SYMPTOMS, lexicon.ALLERGENS, lexicon.HABITS)
    names = [item.name.lower() for table in tables for item in table] + list(lexicon.TESTS)
    names += [lexicon.FAMILY_PREFIX + item.name.lower() for item in lexicon.HEREDITIES]
    inside = [(a, b) for a in names for b in names if a is not b and re.search(rf"\b{re.escape(a)}\b", b)]
    assert inside == []


def test_no_spoken_form_means_two_things() -> None:
    lexicon = clinic_lexicon
    tables = (lexicon.CONDITIONS, lexicon.SYMPTOMS, lexicon.ALLERGENS, lexicon.HEREDITIES)
    meanings = Counter(form.lower() for table in tables for item in table for form in item.forms)
    assert [form for form, count in meanings.items() if count > 1] == []


def test_padding_contains_no_fact() -> None:
    lexicon = clinic_lexicon
    tables = (lexicon.CONDITIONS, lexicon.SYMPTOMS, lexicon.ALLERGENS, lexicon.HEREDITIES)
    forms = {form for table in tables for item in table for form in item.forms}
    facts = re.compile(rf"\b(?:{'|'.join(map(re.escape, forms | set(SURFACES)))})\b", re.IGNORECASE)
    padding = [*lexicon.ACKNOWLEDGEMENTS, *(line for exchange in lexicon.CHAT for line in exchange)]
    padding += [line for lines in lexicon.REMARKS.values() for line in lines]
    assert [line for line in padding if facts.search(line)] == []


@pytest.mark.parametrize(
    ("size", "dialogue", "note", "rationale"),
    [
        ("small", (55, 100), (16, 35), (12, 30)),
        ("medium", (220, 420), (60, 110), (50, 110)),
        ("full", (1000, 1900), (140, 260), (120, 260)),
    ],
)
@pytest.mark.parametrize("split", consultations.SPLITS)
def test_lengths(size: str, split: str, dialogue: tuple[int, int], note: tuple[int, int],
                 rationale: tuple[int, int]) -> None:  # fmt: skip
    rows = list(consultations.rows(0, 200, size=size, split=split))
    for column, (low, high) in {"dialogue": dialogue, "note": note, "rationale": rationale}.items():
        assert low <= mean_tokens(row[column] for row in rows) <= high, column
    if size == "full":
        assert min(mean_tokens([row["dialogue"]]) for row in rows) >= 1000
        assert all(row["note"].count("\n") >= 5 for row in rows)


def test_the_rejected_note_has_exactly_the_named_error(sample: list[dict[str, Any]]) -> None:
    for row in sample:
        assert row["chosen"] == row["note"] != row["rejected"]
        chosen, rejected = read_note(row["chosen"]), read_note(row["rejected"])
        lost, gained = list((chosen - rejected).elements()), list((rejected - chosen).elements())
        (text, kind, assertion), error = lost[0], row["error"]
        assert (len(lost), text) == (1, error["entity"])
        if error["kind"] == "flipped_negation":
            other = "absent" if assertion == "present" else "present"
            assert gained == [(text, "problem", other)]
        elif error["kind"] == "wrong_dose":
            assert (kind, len(gained)) == ("drug", 1)
            assert gained[0][1:] == (kind, assertion)
            assert gained[0][0].rsplit(" ", 2)[0] == text.rsplit(" ", 2)[0]
        else:
            assert (error["kind"], kind, assertion) == ("missed_allergy", "allergy", "present")
            assert gained in ([], [(clinic_lexicon.NO_ALLERGIES, "allergy", "absent")])


def test_all_kinds_of_error_are_common(sample: list[dict[str, Any]]) -> None:
    kinds = Counter(row["error"]["kind"] for row in sample)
    assert set(kinds) == KINDS
    assert min(kinds.values()) > 0.05 * len(sample)


def test_the_rationale_says_what_the_note_says(sample: list[dict[str, Any]]) -> None:
    for row in sample:
        facts = dict(fact.split(": ") for fact in row["rationale"].split("; "))
        for text, kind, assertion in entities(row):
            if kind == "drug":
                name, *dose = text.rsplit(" ", 2)
                assert facts[name].startswith(" ".join(dose))
            elif kind == "vital":
                assert any(f"{name} {value}" == text for name, value in facts.items())
            elif kind == "test":
                assert facts[text] == "ordered"
            elif kind == "allergy" and assertion == "present":
                assert facts[f"allergy to {text}"] == "present"
            else:
                assert facts[text] == assertion


def test_the_dialogue_says_it_all_in_other_words(sample: list[dict[str, Any]]) -> None:
    items: list[Any] = [*clinic_lexicon.CONDITIONS, *clinic_lexicon.SYMPTOMS]
    forms = {item.name: item.forms for item in items}
    copied = total = 0
    for row in sample:
        lines = row["dialogue"].split("\n")
        assert [line.split(":")[0] for line in lines] == ["Doctor", "Patient"] * (len(lines) // 2)
        assert "{" not in row["dialogue"]
        said = row["dialogue"].lower()
        for text, kind, _ in entities(row):
            if kind == "drug":
                name, number, _ = text.rsplit(" ", 2)
                assert name in said
                assert re.search(rf"\b{re.escape(number)}\b", said) or number_words(number) in said
            elif kind == "problem":
                assert any(form.lower() in said for form in forms[text])
                copied, total = copied + (text.lower() in said), total + 1
    assert 0.2 < copied / total < 0.8


def test_the_same_fact_is_asked_and_answered_in_many_ways() -> None:
    asked, answered, openings = set(), set(), set()
    fever = next(symptom for symptom in clinic_lexicon.SYMPTOMS if symptom.name == "fever")
    for row in consultations.rows(0, 4000):
        lines = row["dialogue"].split("\n")
        openings.add(re.sub(r"\b(?:Mr|Ms)\. \w+", "", lines[0]))
        for doctor, patient in zip(lines[::2], lines[1::2], strict=True):
            if any(form in doctor for form in fever.forms) and "hay fever" not in doctor:
                asked.add(doctor)
                answered.add(patient)
    assert min(len(asked), len(answered), len(openings)) >= 10


def test_a_note_is_always_written_in_the_same_style() -> None:
    opening = re.compile(
        r"(\d+-year-old (?:man|woman) with|Reports|Denies|No|Negative for|Takes|Allergic to|Has|Vitals:) "
    )
    for row in consultations.rows(2, 500):
        assert all(opening.match(sentence) for sentence in re.split(r"(?<=[a-z0-9%])\. ", row["note"])), row[
            "note"
        ]


@pytest.mark.parametrize(
    ("number", "spoken"),
    [
        ("0.25", "zero point two five"),
        ("7.5", "seven point five"),
        ("58", "fifty-eight"),
        ("80", "eighty"),
        ("400", "four hundred"),
        ("875", "eight hundred seventy-five"),
        ("1500", "one thousand five hundred"),
    ],
)
def test_number_words(number: str, spoken: str) -> None:
    assert number_words(number) == spoken


@pytest.mark.parametrize(
    ("index", "split", "size"), [(-1, "train", "small"), (0, "test", "small"), (0, "train", "big")]
)
def test_an_impossible_row_is_refused(index: int, split: str, size: str) -> None:
    with pytest.raises(ValueError, match=rf"no row {index} of split '{split}', size '{size}'"):
        consultations.row(0, index, split=split, size=size)
