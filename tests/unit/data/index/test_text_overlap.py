"""Hashes and shared word sequences are equal for texts that a reader would call the same."""

from __future__ import annotations

import random

from medray.data.index.text_overlap import (
    RUN_WORDS,
    Benchmarks,
    normalised,
    same_text,
    text_hash,
    texts,
    word_runs,
)
from medray.data.records import Distill, Instruction, Message, Origin

ORIGIN = Origin("1", "s", "", "")


def words(count: int, seed: int) -> list[str]:
    return [f"w{random.Random(f'{seed} {place}').randrange(10**6)}" for place in range(count)]


def test_case_blanks_and_the_form_of_a_character_do_not_matter() -> None:
    assert normalised("  The\tPATIENT\n\nhas 5 µg") == normalised("the patient has 5 μg ")
    assert normalised("ﬁbrosis") == "fibrosis"
    assert normalised("no fever") != normalised("fever")
    for text in ("  The\tPATIENT\n\nhas", "a\x1fb C", "has 5 µg"):
        assert same_text(text) == "".join(normalised(text).split()).encode()
    assert text_hash("a") != text_hash("b")


def test_sequences_have_thirteen_consecutive_words() -> None:
    row = words(40, 1)
    runs = word_runs(" ".join(row))
    assert len(runs) == len(set(runs.tolist())) == 40 - RUN_WORDS + 1
    assert word_runs(" ".join(row[5:18])).tolist() == [runs[5]]
    assert word_runs(" ".join(row[:12])).tolist() == []
    assert word_runs(" ".join([*row[1:13], row[0]])).tolist() != [runs[0]], "order matters"


def test_a_benchmark_is_found_inside_a_longer_text() -> None:
    question = words(20, 2)
    benchmarks = Benchmarks.of([{"question": " ".join(question), "options": ["yes", "no"]}])
    inside = " ".join([*words(30, 3), *question[3:16], *words(30, 4)])
    assert benchmarks.hold(inside, "")
    assert benchmarks.hold("", inside)
    assert not benchmarks.hold(" ".join([*words(30, 3), *question[3:15], *words(30, 4)]), "yes")
    assert not benchmarks.hold("yes", "no")


def test_a_short_field_counts_only_as_a_whole_question() -> None:
    benchmarks = Benchmarks.of([{"q": "What is the Dose of Aspirin?"}])
    assert benchmarks.hold("what is the dose of aspirin?", "")
    assert not benchmarks.hold("so what is the dose of aspirin?", "")


def test_a_tokenizer_learns_from_every_text_of_a_record() -> None:
    assert list(texts(Distill(ORIGIN, "a", "b", {"k": "c", "l": None}))) == ["a", "b", "c"]
    assert list(texts(Distill(ORIGIN, "a", "b", ("c", "d")))) == ["a", "b", "c", "d"]
    said = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"))
    assert list(texts(Instruction(ORIGIN, said))) == ["s", "a", "b"]
