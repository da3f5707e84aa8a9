"""Signs of a useless model in texts alone; those of runs are in tests/unit/train/export/test_collapse.py."""

from __future__ import annotations

import pytest

from medray.evaluate.scoring.collapse import RULES, Answer, warnings


def answers(*said: str, ended: bool | None = None) -> list[Answer]:
    return [Answer("", None, text, ended) for text in said]


GOOD = answers("fever", "cough", "rash", "no fever", "pain", "well")
LOOP = "again and " * 15


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (GOOD, []),
        (answers("", " ", "x", "y"), ["empty_predictions"]),
        (answers(*["no"] * 10), ["same_prediction"]),
        (answers(*["no"] * 4), []),  # few rows may have the same answer by chance
        (answers(*["no"] * 8, "yes", "yes"), []),
        (answers(LOOP + "a", LOOP + "b", "fine"), ["repeating_predictions"]),
        ([Answer("tell me about fever", None, "me about fever")] * 2, ["echoed_prompts"]),
        (answers("fever", "cough", ended=False), ["no_end_token"]),
        (answers("fever", "cough", ended=True), []),
        ([], []),
    ],
)
def test_answers_without_references(found: list[Answer], names: list[str]) -> None:
    assert [each["name"] for each in warnings(found)] == names


def test_no_rule_quotes_an_answer() -> None:
    found = warnings([Answer("secret", "secrets", "", False), Answer("x", "y", "secret " * 30, False)] * 5)
    assert {each["name"] for each in found} == {"empty_predictions", "repeating_predictions", "no_end_token"}
    assert "secret" not in str(found)
    assert set(RULES) >= {each["name"] for each in found}
