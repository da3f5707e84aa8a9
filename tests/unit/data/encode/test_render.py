"""What a task reads and writes of each kind of record."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from encoding import ORIGIN, chat, distill, spec

from medray.data.encode.encoder import reference
from medray.data.encode.render import Turn, reading, target
from medray.data.records import Entity, Extraction, Message, Preference, Record, Relation, TwoStep

TWO_STEP = TwoStep(ORIGIN, "find key words: text", "summarize: text", "A note.", "fever: yes")
PREFERENCE = Preference(ORIGIN, (Message("system", "Be brief."), Message("user", "Dose?")), "One.", "Two.")
EXTRACTION = Extraction(
    ORIGIN,
    ("Aspirin and fever.", "ASPIRIN for pain."),
    (
        Entity("e1", "Chemical", ("Aspirin", "ASA")),
        Entity("e2", "Disease", ("fever",)),
        Entity("e3", "Chemical", ("ASPIRIN",)),
        Entity("e4", "Disease", ("pain",)),
    ),
    (
        Relation("treats", "e1", "e4"),
        Relation("treats", "e3", "e4"),
        Relation("causes", "e4", "e2"),
        Relation("treats", "e1", "gone"),
    ),
)


def read(record: Record, task: str = "label", **changes: Any) -> tuple[Turn, ...]:
    found = reading(record, task, spec(**changes))
    assert found is not None
    return found.turns


class TestPrompts:
    def test_a_causal_model_is_asked_in_one_turn(self) -> None:
        assert read(distill("text")) == (Turn("user", "Summarize this dialogue:\n", "text"),)
        assert read(distill("text"), "rationale") == (Turn("user", "Extract the key information:\n", "text"),)

    def test_the_system_message_is_the_configurations(self) -> None:
        assert read(distill("text"), system="")[0] == Turn("system", "", None)
        assert read(distill("text"), system="Be exact.")[0] == Turn("system", "Be exact.", None)

    def test_an_encoder_decoder_reads_a_prefix_and_no_system_message(self) -> None:
        found = read(distill("text"), architecture="seq2seq", prompts={"label": "predict"}, system="unused")
        assert found == (Turn("user", "predict: ", "text"),)

    @pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
    def test_an_empty_prompt_adds_nothing(self, architecture: str) -> None:
        assert read(distill("text"), architecture=architecture, prompts={"label": ""}) == (
            Turn("user", "", "text"),
        )

    @pytest.mark.parametrize("template", ["alpaca", "legacy/gemma"])
    def test_a_template_with_a_place_for_an_instruction_gets_the_prompt_there(self, template: str) -> None:
        turns = read(distill("text"), template=template, prompts={"label": "Summarize."}, system="Be exact.")
        assert turns == (Turn("system", "Be exact.\nSummarize.", None), Turn("user", "", "text"))

    @pytest.mark.parametrize(
        ("prompt", "asked"),
        [("Extract", "Extract (Known Allergies)"), ("Find the {key}", "Find the Known Allergies")],
    )
    def test_the_prompt_of_one_key_names_it(self, prompt: str, asked: str) -> None:
        record = distill("text", rationale={"Known Allergies": "latex"})
        [turn] = read(record, "rationale/Known Allergies", prompts={"rationale": prompt})
        assert turn.lead == f"{asked}:\n"
        own = {"rationale": prompt, "rationale/Known Allergies": "Allergies?"}
        assert read(record, "rationale/Known Allergies", prompts=own)[0].lead == "Allergies?:\n"

    @pytest.mark.parametrize(
        ("lang", "asked"), [("es", "Resumir"), ("fr", "Résumer"), ("", "Summarize"), ("de", "Summarize")]
    )
    def test_a_row_is_asked_in_its_own_language(self, lang: str, asked: str) -> None:
        record = replace(distill("text"), origin=replace(ORIGIN, lang=lang))
        prompts = {"label": "Summarize", "rationale": "Extract"}
        by_lang = {"es": {"label": "Resumir"}, "fr": {"label": "Résumer", "rationale": "Extraire {key}"}}
        [turn] = read(record, prompts=prompts, prompts_by_lang=by_lang)
        assert turn.lead == f"{asked}:\n"
        record = replace(record, rationale={"âge": "3"})
        [turn] = read(record, "rationale/âge", prompts=prompts, prompts_by_lang=by_lang)
        assert turn.lead == ("Extraire âge:\n" if lang == "fr" else "Extract (âge):\n")


class TestRationales:
    @pytest.mark.parametrize(
        ("rationale", "text"),
        [
            ("why", "why"),
            (("one", "two"), "one\ntwo"),
            ({"Age": "40", "Sex": None, "Other": "", "Diagnosis": "flu"}, "Age: 40\nDiagnosis: flu"),
            (None, None),
        ],
    )
    def test_a_whole_rationale(self, rationale: Any, text: str | None) -> None:
        assert target(distill("text", rationale=rationale), "rationale", spec()) == text

    @pytest.mark.parametrize("rationale", [None, "", (), {}, {"Age": None}])
    def test_without_a_rationale_there_is_nothing_to_read(self, rationale: Any) -> None:
        assert reading(distill("text", rationale=rationale), "rationale", spec()) is None

    @pytest.mark.parametrize(
        ("key", "text"), [("Age", "40"), ("Sex", "None"), ("Other", "None"), ("New", "None")]
    )
    def test_one_key_of_a_rationale(self, key: str, text: str) -> None:
        record = distill("text", rationale={"Age": "40", "Sex": None, "Other": ""})
        assert target(record, f"rationale/{key}", spec(skip_null=False)) == text
        assert target(record, f"rationale/{key}", spec()) == (None if text == "None" else text)

    @pytest.mark.parametrize("rationale", [None, "why", ("one", "two")])
    def test_a_rationale_without_keys_has_no_task_of_a_key(self, rationale: Any) -> None:
        assert target(distill("text", rationale=rationale), "rationale/Age", spec()) is None


class TestOtherRecords:
    def test_two_steps_read_two_inputs(self) -> None:
        assert [turn.text for turn in read(TWO_STEP)] == ["summarize: text"]
        assert [turn.text for turn in read(TWO_STEP, "rationale")] == ["find key words: text"]
        assert (target(TWO_STEP, "label", spec()), target(TWO_STEP, "rationale", spec())) == (
            "A note.",
            "fever: yes",
        )

    def test_a_conversation_is_read_up_to_its_last_answer(self) -> None:
        record = chat("q1", "a1", "q2", "a2", system="Be kind.")
        assert read(record, prompts={}) == (
            Turn("system", "", "Be kind."),
            Turn("user", "", "q1"),
            Turn("assistant", "", "a1"),
            Turn("user", "", "q2"),
        )
        assert target(record, "label", spec()) == "a2"
        assert reading(record, "rationale", spec()) is None

    def test_a_conversations_own_system_message_comes_before_the_configurations(self) -> None:
        assert read(chat("q", "a", system="Own."), system="Other.")[0] == Turn("system", "", "Own.")
        assert read(chat("q", "a"), system="Other.")[0] == Turn("system", "Other.", None)

    def test_a_preference_has_two_answers_to_one_prompt(self) -> None:
        found = {task: reading(PREFERENCE, task, spec()) for task in ("label", "rejected")}
        assert {one.turns for one in found.values() if one} == {
            (Turn("system", "", "Be brief."), Turn("user", "", "Dose?"))
        }
        assert [one.answer for one in found.values() if one] == ["One.", "Two."]
        assert all(one.last_only for one in found.values() if one)

    @pytest.mark.parametrize("task", ["rejected"])
    @pytest.mark.parametrize("record", [distill("text"), chat("q", "a"), TWO_STEP, EXTRACTION])
    def test_other_records_have_no_better_and_worse_answer(self, record: Record, task: str) -> None:
        assert target(record, task, spec()) is None

    def test_a_document_is_its_passages(self) -> None:
        assert [turn.text for turn in read(EXTRACTION)] == ["Aspirin and fever. ASPIRIN for pain."]

    @pytest.mark.parametrize(
        ("answer", "types", "wanted"),
        [
            ("entities", (), ["Aspirin", "fever", "pain"]),
            ("entities", ("Chemical",), ["Aspirin"]),
            ("entities", ("Gene",), []),
            ("relations", (), [["Aspirin", "pain"], ["pain", "fever"]]),
            ("relations", ("causes",), [["pain", "fever"]]),
        ],
    )
    def test_answers_of_extraction_are_each_named_once(self, answer: Any, types: Any, wanted: Any) -> None:
        made = reference(EXTRACTION, spec(extraction_answer=answer, extraction_types=types))
        assert json.loads(made) == wanted

    def test_a_document_may_be_asked_otherwise_than_a_row_of_text(self) -> None:
        asked: dict[str, Any] = {
            "prompts": {"label": "Summarize", "rationale": "Extract"},
            "extraction_prompt": "List",
        }
        assert read(EXTRACTION, **asked)[0].lead == "List:\n"
        assert read(distill("text"), **asked)[0].lead == "Summarize:\n"
        assert read(distill("text"), "rationale", **asked)[0].lead == "Extract:\n"
        assert read(EXTRACTION, **asked | {"extraction_prompt": None})[0].lead == "Summarize:\n"

    def test_an_answer_of_extraction_keeps_letters_as_they_are(self) -> None:
        record = Extraction(ORIGIN, ("ß",), (Entity("e", "t", ("β-blocker",)),))
        assert reference(record, spec()) == '["β-blocker"]'

    @pytest.mark.parametrize(
        ("record", "text"),
        [
            (distill("t", "L"), "L"),
            (TWO_STEP, "A note."),
            (chat("q", "a", "r", "b"), "b"),
            (PREFERENCE, "One."),
        ],
    )
    def test_the_reference_is_what_the_label_task_writes(self, record: Record, text: str) -> None:
        assert reference(record, spec()) == target(record, "label", spec()) == text
