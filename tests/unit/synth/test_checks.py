"""Tests of the checks of replies: each reason, and texts that must pass unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import synth_lists

from medray.backends.protocol import Reply
from medray.synth.chat.checks import problem, sentences
from medray.synth.chat.situations import Situation, draw
from medray.synth.prompts.questions import Question

GERMAN = "Der Patient sollte zuerst ausreichend trinken, und die Dosis wird nach zwei Tagen erneut geprüft."
PLANES = "".join(chr(plane * 0x10000 + 0x1F4) for plane in range(17)) + " \U0001f468\u200d\u2695\ufe0f"


def situation(**changes: Any) -> Situation:
    question = Question(id="1-1", prompt="What now?", part=2, context="", speaker="physician")
    row = draw(question, synth_lists.lists(), 0).to_json()
    made = {name: getattr(Situation.of_json(row), name) for name in Situation.__dataclass_fields__}
    return Situation(**{**made, "n_chatbot": None, "n_user": None, "mode": "normal", **changes})


def reply(text: str, finish_reason: str = "stop", refusal: str | None = None) -> Reply:
    return Reply(key="k", text=text, finish_reason=finish_reason, model="m", refusal=refusal)


@pytest.mark.parametrize(
    ("given", "changes", "reason"),
    [
        (reply("Take it", "length"), {}, "finish_reason length"),
        (reply(" \n"), {}, "empty"),
        (reply("", refusal="no"), {}, "refusal"),
        (reply("I'm sorry, but I can't help with that."), {}, "refusal"),
        (reply("As an AI language model, I cannot provide medical advice."), {}, "refusal"),
        (reply("(chatbot) Give 5 mg."), {}, "role tag"),
        (reply("Give 5 mg.\n**User:** And then?"), {}, "role tag"),
        (reply("Give it. ( user ) thanks"), {}, "role tag"),
        (reply(GERMAN), {"language": "fr"}, "wrong language"),
        (reply("One. Two."), {"n_chatbot": 3}, "wrong number of sentences"),
        (reply("half \ud800"), {}, "half of a Unicode pair"),
        (reply(GERMAN), {"language": "de"}, None),
        (reply("Oui."), {"language": "de"}, None),  # too short to tell
        (reply("One. Two."), {"n_chatbot": 3, "mode": "chat"}, None),
        (reply("The user can't sleep; I can't rule out malaria."), {}, None),
        (reply("Patients (users of insulin) and the assistant nurse agree."), {}, None),
        (reply(r"Dose $2 \times 3$ mg, **bold**, C:\new\table, trailing \ " + "\\"), {}, None),
        (reply(PLANES), {}, None),
    ],
)
def test_a_reply_is_accepted_or_rejected_with_a_reason(
    given: Reply, changes: dict[str, Any], reason: str | None
) -> None:
    assert problem(given, situation(**changes), "1c") == reason


def test_language_and_length_of_the_user_are_its_own() -> None:
    assert problem(reply(GERMAN), situation(language="fr", n_chatbot=5, n_user=1), "2u") is None
    assert problem(reply(GERMAN), situation(n_user=2), "2u") == "wrong number of sentences"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Give 2.5 mg. Then wait, e.g. two hours! Is it ok?", 3),
        ("1. Do this.\n2. Do that.", 2),
        ('He said "stop." Then he left.', 2),
        ("Wait... what?!", 2),
        ("它是什么？它是药。", 2),
        ("No end", 1),
        ("", 0),
    ],
)
def test_sentences_are_counted(text: str, count: int) -> None:
    assert sentences(text) == count
