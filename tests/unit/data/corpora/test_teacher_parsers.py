"""Every parser is tested on completions modelled on the published ones."""

from __future__ import annotations

import pytest

from medray.data.corpora.teacher_parsers import parser

NEXT = "\n\nQ: What is next?\nA: So the answer is (b) no."


@pytest.mark.parametrize(
    ("corpus", "teacher", "completion", "rationale", "label"),
    [
        ("cqa", "palm", " A fan cools. So the answer is (a) hot room." + NEXT, " A fan cools.", "hot room"),
        ("cqa", "palm", "It cools. So the answer is (a) hot room" + NEXT, "It cools.", "hot room"),
        ("cqa", "palm", "It cools. So the answer is a hot room.", "It cools.", " "),
        ("cqa", "palm", "It cools. So the answer is (a)", "It cools.", " "),
        ("cqa", "palm", "It cools the room\n", "It cools the room", " "),
        ("cqa", "palm", "X. So the answer is (a) b. So the answer is (c) d.", "X.", " "),
        ("cqa", "gpt", "\n It cools. So the answer is (a) hot room." + NEXT, "It cools.", "hot room"),
        ("cqa", "gpt", "It cools the room", " ", " "),
        ("cqa", "gpt", "It cools. So the answer is a room", "It cools.", " "),
        ("svamp", "palm", "7 a row. The answer is (7 * 36).\n\nQ: 1?\nA: The answer is (2)", "7 a row.", "(7 * 36)"),
        ("svamp", "palm", "X. The answer is (1 + 2) and (3).", "X.", "(1 + 2) and (3)"),
        ("svamp", "palm", "X. The answer is 3.", "X.", " "),
        ("svamp", "palm", "There are 3.", " ", " "),
        ("svamp", "palm", "The answer is (1). The answer is (2).", " ", " "),
        ("svamp", "gpt", "\n 7 a row. The answer is (7 * 36).", "7 a row.", "(7 * 36)"),
        ("asdiv", "palm", "X. The answer is (7 + 2).", "X.", "(7 + 2)"),
        ("esnli", "palm", " A man is outside. \nAnswer: neutral\n\nPremise: B\nAnswer: x", " A man is outside.", "neutral"),
        ("esnli", "palm", "A man is outside.", "A man is outside.", " "),
        ("esnli", "gpt", " A man is outside. Answer: entailment", "A man is outside.", "entailment"),
        ("anli1", "palm", "It is so. So the answer is entailment.\n\nPremise: next", "It is so.", "entailment"),
        ("anli1", "palm", "It is so. So the answer is entailment", "It is so.", "entailmen"),
        ("anli1", "palm", "It is so.", "", ""),
        ("anli1", "palm", "It is so. The answer is neutral.", "", ""),
        ("anli1", "gpt", " It is so. The answer is neutral.", "It is so.", "neutral"),
        ("anli1", "gpt", " It is so. So the answer is neutral.", "It is so.", "neutral"),
        ("anli1", "gpt", "It is so", "", ""),
    ],
)  # fmt: skip
def test_parser(corpus: str, teacher: str, completion: str, rationale: str, label: str) -> None:
    parse = parser(corpus, teacher)
    assert parse is not None
    assert parse(completion) == (rationale, label)


def test_asdiv_has_no_second_teacher() -> None:
    assert parser("asdiv", "gpt") is None


def test_a_completion_of_any_text_does_not_crash() -> None:
    for corpus in ("cqa", "svamp", "asdiv", "esnli", "anli1"):
        for teacher in ("palm", "gpt"):
            parse = parser(corpus, teacher)
            for text in (
                "",
                " ",
                "Q:",
                "Premise:",
                "Answer:",
                "Answer: ",
                "The answer is",
                "So the answer is",
                "(a)",
            ):
                if parse is not None:
                    assert parse(text).label.strip() == ""
