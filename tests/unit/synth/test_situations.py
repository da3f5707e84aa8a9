"""Tests of the situations of chats: published weights within four standard deviations, overrides, and system prompts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import synth_lists

from medray.synth.chat.situations import Situation, draw
from medray.synth.chat.turns import conversation, messages, next_step
from medray.synth.prompts.questions import Question

LISTS = synth_lists.lists()
MANY = 4_000


def question(name: str, part: int = 2, context: Any = "task, subtopic", **more: Any) -> Question:
    return Question(id=name, prompt="What now?", part=part, context=context, speaker="physician", **more)


def drawn(task: int, part: int, many: int = MANY) -> list[Situation]:
    if part == 3:
        context = (task + 1, f"task {task}", 1, "x")
        rows = [question(f"A-{n}-1A-Fiji", 3, context, country="Fiji", style="1A") for n in range(many)]
    else:
        rows = [question(f"{task}-{n}") for n in range(many)]
    return [draw(row, LISTS, 11) for row in rows]


def check(counts: Counter[Any], weights: dict[Any, float]) -> None:
    total = counts.total()
    assert set(counts) <= {name for name, weight in weights.items() if weight}
    for name, weight in weights.items():
        sigma = math.sqrt(total * weight * (1 - weight))
        assert abs(counts[name] - total * weight) <= 4 * sigma, (name, counts[name], total * weight)


@pytest.mark.parametrize(
    ("task", "part", "weights"),
    [(1, 2, (0.4, 0.6, 0.0)), (3, 3, (0.25, 0.7, 0.05)), (6, 2, (0.0, 1.0, 0.0)), (11, 2, (0.3, 0.3, 0.4))],
)
def test_modes_and_turns_have_the_published_weights(task: int, part: int, weights: tuple[float, ...]) -> None:
    found = drawn(task, part)
    check(
        Counter(each.mode for each in found), dict(zip(("chat", "normal", "emergency"), weights, strict=True))
    )
    for mode, turns in (("normal", (0.5, 0.3, 0.2)), ("chat", (0.2, 0.3, 0.5))):
        of_mode = Counter(each.turns for each in found if each.mode == mode)
        if of_mode:
            check(of_mode, dict(zip((1, 2, 3), turns, strict=True)))


def test_lengths_and_styles_have_the_published_weights() -> None:
    names = ("no_specification", "short", "long", "exactly_n_sentences")
    for part, length, style in ((2, (0.4, 0.2, 0.3, 0.1), 0.4), (3, (0.6, 0.15, 0.2, 0.05), 0.6)):
        found = drawn(1, part)
        check(Counter(each.chatbot_length for each in found), dict(zip(names, length, strict=True)))
        check(
            Counter(each.chatbot_style == "no_specification" for each in found),
            {True: style, False: 1 - style},
        )
        check(
            Counter(each.user_length for each in found), dict(zip(names, (0.4, 0.3, 0.2, 0.1), strict=True))
        )
        check(
            Counter(each.chatbot_science for each in found),
            {"popularization": 0.1, "standard": 0.8, "scientific": 0.1},
        )
        assert {each.n_chatbot for each in found if each.n_chatbot} == set(range(2, 11))
        assert {each.n_user for each in found if each.n_user} == set(range(1, 11))


def test_the_share_that_reaches_later_turns() -> None:
    """Tasks 11 and 12 of part 2: .665 reach turn 2 and .365 turn 3; 1,952 published chats gave .659 and .364."""
    found = [*drawn(11, 2, 2_000), *drawn(12, 2, 2_000)]
    for turn, share in ((2, 0.665), (3, 0.365)):
        sigma = math.sqrt(share * (1 - share) / len(found))
        assert abs(sum(each.turns >= turn for each in found) / len(found) - share) <= 4 * sigma


def test_answer_styles_decide_the_turns() -> None:
    context = (11, "Language Translation", 1, "x")
    rows = {
        style: [question(f"A-{n}-{style}-Fiji", 3, context, country="Fiji", style=style) for n in range(500)]
        for style in ("1A", "5B", "6C")
    }
    turns = {style: Counter(draw(row, LISTS, 3).turns for row in found) for style, found in rows.items()}
    check(turns["1A"], {1: 0.8, 2: 0.1, 3: 0.1})
    assert turns["5B"] == {3: 500}
    assert turns["6C"] == {1: 500}
    assert draw(question("A-1-4B-Fiji", 3, context, country="Fiji", style="4B"), LISTS, 3).language == "es"


def test_emergency_medicine_of_part_1_is_an_emergency() -> None:
    """The published rule compared lower-cased text with leading blanks, and never held."""
    for context in ("Physician, Emergency Medicine, Cardiology", "Nurse, Ward,  EMERGENCY medicine "):
        assert {draw(question(f"20-{n}", 1, context), LISTS, 0).mode for n in range(50)} == {"emergency"}
    modes = {
        draw(question(f"20-{n}", 1, "Emergency Medicine nurse, Ward, Heart"), LISTS, 0).mode
        for n in range(99)
    }
    assert modes == {"chat", "normal", "emergency"}


def test_a_situation_depends_on_seed_and_id_only_and_survives_its_file() -> None:
    one = draw(question("3-7"), LISTS, 5)
    drawn(1, 2, 50)
    assert draw(question("3-7"), LISTS, 5) == one
    assert draw(question("3-7"), LISTS, 6) != one
    assert Situation.of_json(one.to_json()) == one


def test_bullets_of_length_and_style_appear_in_the_normal_mode_only() -> None:
    seen = Counter[tuple[str, bool]]()
    for each in drawn(0, 2, 600):
        has = "exactly" in each.system_chatbot or "Markdown" in each.system_chatbot
        seen[each.mode, has] += 1
        bullets = [line for line in each.system_chatbot.split("\n") if line.startswith("- ")]
        assert len(bullets) >= 6
        assert each.country
        assert each.country in each.system_chatbot
        assert each.country in each.system_user
    assert seen["normal", True]
    assert not seen["chat", True]
    assert not seen["emergency", True]


def test_the_turns_of_a_chat() -> None:
    assert [next_step(1, n) for n in range(2)] == ["1c", None]
    assert [next_step(3, n) for n in range(6)] == ["1c", "2u", "2c", "3u", "3c", None]
    situation = replace(draw(question("3-7"), LISTS, 5), turns=3, initial_prompt="Q1")
    assert [each.role for each in messages(situation, ["A1", "Q2"], "2c")] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    asked = messages(situation, ["A1", "Q2", "A2"], "3u")
    assert asked[0].content == situation.system_user
    assert [(each.role, each.content) for each in asked[2:]] == [
        ("assistant", "Q1"), ("user", "A1"), ("assistant", "Q2"), ("user", "A2"),
    ]  # fmt: skip
    assert asked[1].role == "user"
    flat = messages(situation, ["A1"], "2u", "flat")
    assert [each.role for each in flat] == ["system", "user"]
    assert flat[1].content == "(user) Q1 \n(chatbot) A1 \n"
    assert conversation(situation, ["A1"]) == [("user", "Q1"), ("chatbot", "A1")]
