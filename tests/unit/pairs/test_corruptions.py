"""Rule-based wrong answers: each has its one named error, and only then there is one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from medray.data.records import Entity, Extraction, Origin, Relation
from medray.pairs.corruptions import CORRUPTIONS, Task

TEXT = "Severe acute nephritis after oral gold sodium therapy. The patients tolerated aspirin without gastric bleeding."


def entity(name: str, kind: str, text: str) -> Entity:
    at = TEXT.index(text)
    return Entity(name, kind, (text,), ((at, at + len(text)),))


DOCUMENT = Extraction(
    Origin("a:1", "a", "1", "en"),
    (TEXT,),
    (
        entity("1", "Disease", "acute nephritis"),
        entity("2", "Chemical", "gold sodium"),
        entity("3", "Chemical", "aspirin"),
        entity("4", "Disease", "gastric bleeding"),
    ),
    (Relation("causes", "2", "1"), Relation("treats", "3", "4")),
)
CHEMICALS = Task(
    document=DOCUMENT, answer="entities", types=("Chemical",), items=(("gold sodium",), ("aspirin",))
)
CAUSES = Task(
    document=DOCUMENT, answer="relations", types=("causes",), items=(("gold sodium", "acute nephritis"),)
)


def results(strategy: str, task: Task) -> list[Any]:
    """Return the answers that the strategy makes with 40 seeds."""
    return [CORRUPTIONS[strategy](task, random.Random(seed)) for seed in range(40)]


def test_drop_leaves_one_item_out() -> None:
    assert {tuple(made) for made in results("drop", CHEMICALS)} == {(("aspirin",),), (("gold sodium",),)}
    assert set(results("drop", CAUSES)) == {None}, "an answer with one item would be empty"


def test_duplicate_has_one_item_twice() -> None:
    for made in results("duplicate", CHEMICALS):
        assert len(made) == 3
        assert set(made) == set(CHEMICALS.items)


def test_add_names_a_span_of_the_text_that_is_no_entity() -> None:
    for made in results("add", CHEMICALS):
        (added,) = set(made) - set(CHEMICALS.items)
        assert added[0] in TEXT
        for gold in DOCUMENT.entities:
            assert gold.text[0] not in added[0]
            assert added[0] not in gold.text[0]
    for made in results("add", CAUSES):
        (added,) = set(made) - set(CAUSES.items)
        assert added[0] == "gold sodium"


def test_shift_moves_one_end_by_one_word() -> None:
    made = {each for answer in results("shift", CHEMICALS) for (each,) in answer} - {"gold sodium", "aspirin"}
    assert made == {
        "gold",
        "sodium",
        "oral gold sodium",
        "gold sodium therapy",
        "tolerated aspirin",
        "aspirin without",
    }


def test_swap_turns_the_arguments_round() -> None:
    assert {tuple(made) for made in results("swap", CAUSES)} == {(("acute nephritis", "gold sodium"),)}
    assert set(results("swap", CHEMICALS)) == {None}
    both = Task(
        document=DOCUMENT,
        answer="relations",
        types=("causes",),
        items=(("aspirin", "gold"), ("gold", "aspirin")),
    )
    assert set(results("swap", both)) == {None}, "the turned pair is gold as well"


def test_type_puts_one_of_another_type_in_the_place() -> None:
    found = {item for made in results("type", CHEMICALS) for (item,) in made}
    assert found == {"gold sodium", "aspirin", "acute nephritis", "gastric bleeding"}
    assert {tuple(made) for made in results("type", CAUSES)} == {(("aspirin", "gastric bleeding"),)}
    everything = Task(document=DOCUMENT, answer="entities", types=(), items=(("aspirin",),))
    assert set(results("type", everything)) == {None}, "without asked types none is wrong"


@pytest.mark.parametrize("strategy", CORRUPTIONS)
def test_nothing_is_made_of_an_empty_answer(strategy: str) -> None:
    empty = Task(document=DOCUMENT, answer="relations", types=("binds",), items=())
    assert set(results(strategy, empty)) == {None}


@pytest.mark.parametrize("strategy", CORRUPTIONS)
def test_the_seed_decides(strategy: str) -> None:
    for task in (CHEMICALS, CAUSES):
        assert results(strategy, task) == results(strategy, task)
