"""Prompts with examples: their text, their order, what a budget drops, and who draws the examples."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from medray.config.icl import Order, Strategy
from medray.data.records import Message
from medray.icl.documents import Document
from medray.icl.prompting import PromptTemplate, Shots, drawn, prompt
from medray.icl.selection.exclusion import Exclusion

TEMPLATE = PromptTemplate(statement="List every drug that the text names, as a JSON list of strings")
QUESTION = Document(id="q", group="", text="She took codeine.", answer=(("codeine",),))
BEST = Document(id="best", group="", text="He took {answer} and aspirin.", answer=(("aspirin",),))
SECOND = Document(id="second", group="", text="No drug was given.", answer=())
THIRD = Document(id="third", group="", text="A relation.", answer=(("a", "b"),))


def shots(
    count: int, order: Order = "best_first", *, turns: bool = False, budget: int | None = None
) -> Shots:
    return Shots(strategy="retrieved", count=count, order=order, as_turns=turns, max_tokens=budget)


def words(messages: Sequence[Message]) -> int:
    return sum(len(message.content.split()) for message in messages)


def test_one_message_with_task_number_examples_and_question() -> None:
    [message] = prompt(QUESTION, [BEST, SECOND, THIRD], TEMPLATE, shots(2), None).messages
    assert message.role == "user"
    assert message.content == (
        "List every drug that the text names, as a JSON list of strings.\n\n"
        "Here are 2 examples.\n\n"
        'Example 1\nText: He took {answer} and aspirin.\nAnswer: ["aspirin"]\n\n'
        "Example 2\nText: No drug was given.\nAnswer: []\n\n"
        "Text: She took codeine.\nAnswer:"
    )


def test_zero_and_one_example_have_the_same_form() -> None:
    [zero] = prompt(QUESTION, [BEST], TEMPLATE, shots(0), None).messages
    assert zero.content == f"{TEMPLATE.statement}.\n\nText: She took codeine.\nAnswer:"
    [one] = prompt(QUESTION, [THIRD], TEMPLATE, shots(1), None).messages
    assert "Here is 1 example.\n\nExample 1\n" in one.content
    assert 'Answer: [["a", "b"]]' in one.content


def test_the_best_may_be_last() -> None:
    made = prompt(QUESTION, [BEST, SECOND], TEMPLATE, shots(2, "best_last"), None)
    text = made.messages[0].content
    assert text.index("No drug was given.") < text.index("aspirin")
    assert made.shown == ("best", "second"), "the record says who was best"


def test_examples_may_be_turns() -> None:
    made = prompt(QUESTION, [BEST, SECOND], TEMPLATE, shots(2, turns=True), None).messages
    assert [message.role for message in made] == ["user", "assistant", "user", "assistant", "user"]
    assert made[0].content.startswith(f"{TEMPLATE.statement}.\n\nText: He took")
    assert [message.content for message in made[1:]] == [
        '["aspirin"]',
        "Text: No drug was given.\nAnswer:",
        "[]",
        "Text: She took codeine.\nAnswer:",
    ]


@pytest.mark.parametrize("order", ["best_first", "best_last"])
def test_a_budget_drops_the_worst_example_first(order: Order) -> None:
    everything = prompt(QUESTION, [BEST, SECOND, THIRD], TEMPLATE, shots(3, order), words)
    assert everything.tokens is not None
    made = prompt(
        QUESTION, [BEST, SECOND, THIRD], TEMPLATE, shots(3, order, budget=everything.tokens - 1), words
    )
    assert (made.shown, made.dropped, made.too_long) == (("best", "second"), 1, False)
    tight = prompt(QUESTION, [BEST, SECOND], TEMPLATE, shots(2, order, budget=3), words)
    assert (tight.shown, tight.dropped, tight.too_long) == ((), 2, True)


@pytest.mark.parametrize("strategy", ["random", "static"])
def test_drawn_examples_are_never_the_document_itself(strategy: Strategy) -> None:
    train = [Document(id=f"d{at}", group="", text=f"text number {at}", answer=()) for at in range(6)]
    test = [Document(id="t", group="", text="TEXT number 3", answer=()), train[5]]
    found = drawn(strategy, test, train, 4, Exclusion(train, test, None), seed=1)
    names = {name: [example.id for example in examples] for name, examples in found.items()}
    assert "d3" not in names["t"]
    assert "d5" not in names["d5"]
    assert [len(each) for each in names.values()] == [4, 4]
    assert (names["t"] == names["d5"]) == (strategy == "static")
    again = drawn(strategy, test, train, 4, Exclusion(train, test, None), seed=1)
    assert again == found
    alone = drawn(strategy, test[:1], train, 4, Exclusion(train, test[:1], None), seed=1)
    assert strategy == "static" or alone["t"] == found["t"], "a document's draw does not depend on the others"


def test_fewer_training_documents_than_shots_are_all_used() -> None:
    train = [Document(id=f"d{at}", group="", text=f"text {at}", answer=()) for at in range(2)]
    found = drawn("random", [QUESTION], train, 5, Exclusion(train, [QUESTION], None), seed=0)
    assert {example.id for example in found["q"]} == {"d0", "d1"}
