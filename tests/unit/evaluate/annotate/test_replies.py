"""The answer in a teacher's reply, and its comparison with the label."""

from __future__ import annotations

import pytest

from medray.data.records import Distill, Origin
from medray.evaluate.annotate.items import Item
from medray.evaluate.annotate.replies import Compare, chosen_compare, equal, read_reply, split_answer

MARKER = "Answer:"


def item(label: str, *, is_list: bool = False) -> Item:
    record = Distill(Origin("a", "", "", ""), "text", label)
    return Item(key="a", input="text", label=label, row={}, record=record, is_list=is_list)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is hot.\nAnswer: yes", ("It is hot.", "yes")),
        ("It is hot.\n\n**Answer:** **Yes.**\n", ("It is hot.", "Yes")),
        ("x\n### Answer:\n\nyes\nmore", ("x", "yes")),
        ("The answer: maybe?\nanswer: no", ("The answer: maybe?", "no")),  # the last one counts
        ("x\nAnswer: 3.5", ("x", "3.5")),
        ("x\nAnswer: and so on...", ("x", "and so on...")),
        ('x\nAnswer: ["a",\n "b"]', ("x", '["a",\n "b"]')),
        ("x\nAnswer:", ("x", "")),
        ("Answer: yes", ("", "yes")),
        ("no marker", None),
    ],
)
def test_a_reply_is_split_at_its_last_marker(text: str, found: tuple[str, str] | None) -> None:
    assert split_answer(text, MARKER) == found


@pytest.mark.parametrize(
    ("text", "finish", "state", "rationale"),
    [
        ("Since.\nAnswer: yes", "stop", "right", "Since."),
        ("Since.\nAnswer: yes", "length", "cut", ""),
        ("Since.\nAnswer: no", "stop", "wrong", "Since."),
        ("Since.", "stop", "unparsed", ""),
        ("Since.\nAnswer:", "stop", "unparsed", ""),
        ("  \n", "stop", "empty", ""),
        ("Answer: yes", "stop", "empty", ""),
        ("<think>\nAnswer: no? It is.\n</think>\n\nAnswer: yes", "stop", "right", "Answer: no? It is."),
        ("<think>hm</think>Since.\nAnswer: yes", "stop", "right", "Since."),
    ],
)
def test_a_reply_has_one_of_five_states(text: str, finish: str, state: str, rationale: str) -> None:
    found = read_reply(text, finish, item("yes"), "accuracy", MARKER)
    assert (found.state, found.rationale) == (state, rationale)


def test_without_a_comparison_every_reply_with_text_is_right() -> None:
    assert read_reply("Since.", "stop", item("yes"), "none", MARKER).rationale == "Since."
    assert read_reply("Since.\nAnswer: no", "stop", item("yes"), "none", MARKER).rationale == "Since."
    assert read_reply("", "stop", item("yes"), "none", MARKER).state == "empty"


@pytest.mark.parametrize(
    ("compare", "answer", "label", "same"),
    [
        ("accuracy", "yes", "yes.", True),
        ("accuracy", "Yes", "yes", False),
        ("accuracy", "ｙes", "yes", True),
        ("exact_match", "The Yes!", "yes", True),
        ("equation", "42", "( 84.0 / 2.0 )", True),
        ("equation", "__import__('os')", "42", False),
        ("list", '["b", "A"]', '["a", "b"]', True),
        ("list", '["b"]', '["a", "b"]', False),
    ],
)
def test_answers_are_compared(compare: Compare, answer: str, label: str, same: bool) -> None:
    assert equal(answer, label, compare) is same


def test_an_answer_that_is_no_equation_or_list_is_unparsed() -> None:
    assert read_reply("x\nAnswer: about 3", "stop", item("3"), "equation", MARKER).state == "unparsed"
    assert read_reply("x\nAnswer: a, b", "stop", item('["a"]'), "list", MARKER).state == "unparsed"


def test_auto_looks_at_all_labels() -> None:
    assert chosen_compare("auto", [item("3 + 4"), item("7")]) == "equation"
    assert chosen_compare("auto", [item("3 + 4"), item("seven")]) == "accuracy"
    assert chosen_compare("auto", [item("[]", is_list=True)]) == "list"
    assert chosen_compare("exact_match", [item("7")]) == "exact_match"
