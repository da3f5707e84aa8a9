"""Tests of cleaning: each filter has a count, splits keep questions together, and the rows can be trained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medray.cli.main import main
from medray.config.columns import ColumnsConfig
from medray.config.synth import SynthConfig
from medray.data.records import Instruction
from medray.data.schemas import parse
from medray.errors import InputError
from medray.synth.asking.steps import Key
from medray.synth.asking.store import OK, REJECTED, Record, Store
from medray.synth.clean.identifiers import masked
from medray.synth.clean.run import CleanSummary, clean

LONG = "Please tell me how {} should be handled when the usual medicines of the clinic are not available this week"


def chat(name: str, *texts: str, **facts: Any) -> dict[str, Any]:
    turns = [{"role": "chatbot" if n % 2 else "user", "value": text} for n, text in enumerate(texts)]
    return {"id": name, "conversation": turns, **facts}


def cleaned(
    folder: Path, made_chats: list[dict[str, Any]], **keys: Any
) -> tuple[CleanSummary, list[dict[str, Any]]]:
    (folder / "s").mkdir(exist_ok=True)
    (folder / "s" / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made_chats))
    made = {"run": {"storage": str(folder), "name": "s"}, "clean": {"validation": 0.0} | keys}
    summary = clean(SynthConfig.model_validate(made))
    lines = (folder / "s" / "clean" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return summary, [json.loads(line) for line in lines]


def test_every_filter_counts_what_it_leaves_out(tmp_path: Path) -> None:
    benchmark = tmp_path / "benchmark.jsonl"
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    benchmark.write_text(json.dumps({"question": f"Before {text} after"}) + "\n")
    german = (
        "Der Patient sollte zuerst ausreichend trinken, und die Dosis wird nach zwei Tagen erneut geprüft."
    )
    rows = [
        chat("1-0", "(user) **Q0**?", "**(chatbot)** : A0, (dosages should be verified) 5 mg"),
        chat("1-1", "(user)  **q0**?", "the same question again"),
        chat("1-2", "Q2?", "Yes. (user) And?"),
        chat("1-3", "Q3?", "A", "and?"),
        chat("1-4", "Q4?", ""),
        chat("1-5", "Q5?", "x" * 500),
        chat("1-6", "Q6?", "Give 5 mg twice."),
        chat("1-7", "Q7?", "Call +41 44 123 45 67 now."),
        chat("1-8", LONG.format("malaria"), "Quinine."),
        chat("1-9", LONG.format("malaria") + "!", "Artesunate."),
        chat("1-10", f"Q10 {text}?", "Yes."),
        chat("1-11", german, "Ja."),
        chat(
            "1-12",
            "Which dose should the patient with malaria take this week, doctor?",
            german,
            language="fr",
        ),
    ]
    limits = {"longest_chat": 400, "dose_warning": True, "languages": ["en"]}
    summary, kept = cleaned(tmp_path, rows, decontaminate=[str(benchmark)], **limits)
    assert summary.dropped["PHONE found"] == 1
    expected = {
        "duplicate": 1, "role tag": 1, "ends with the user": 1, "too short": 1, "too long": 1, "PHONE found": 1,
        "dose without a warning": 1, "identifier of a person": 1, "near-duplicate": 1, "in a benchmark": 1,
        "language of the question": 1, "language of an answer": 1,
    }  # fmt: skip
    assert summary.dropped == expected
    assert [row["id"] for row in kept] == ["1-0", "1-8"]
    assert kept[0]["messages"] == [
        {"role": "user", "content": "**Q0**?"},
        {"role": "assistant", "content": "A0, (dosages should be verified) 5 mg"},
    ]
    sheet = (tmp_path / "s" / "clean" / "datasheet.md").read_text()
    assert "| in a benchmark | 1 |" in sheet
    assert "Q0" not in sheet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mail a.b+c@clinic.example.org now", "Mail [EMAIL] now"),
        ("Call +41 44 123 45 67 or (212) 555-0198.", "Call [PHONE] or [PHONE]."),
        ("Tel. 0441234567", "Tel. [PHONE]"),
        ("DOB: 12/03/1984, born on 3 March 1984", "DOB: [BIRTH_DATE], born on [BIRTH_DATE]"),
        ("Call 212-555-0198.", "Call [PHONE]."),
        ("born on the 3rd of March 1984", "born on [BIRTH_DATE]"),
        ("date of birth is March 3rd, 1984", "date of birth is [BIRTH_DATE]"),
        ("patient number 4711", "patient number [RECORD_NUMBER]"),
        ("Ranges 100-200-3000-4, the patient ID is new", None),
        ("MRN 00412345 and patient ID: AB-12345", "MRN [RECORD_NUMBER] and patient ID: [RECORD_NUMBER]"),
        ("On 12/03/2024, 2,000 mg and BP 120/80, pulse 72, ICD-10 A01.1", None),
        ("Sodium 135-145 mmol/l, 10 000 units, HbA1c 7.2%, 5 x 10^9", None),
        ("The mrn was not known; call number four.", None),
    ],
)
def test_identifiers_are_found_by_patterns(text: str, expected: str | None) -> None:
    made, counts = masked(text)
    assert made == (text if expected is None else expected)
    assert bool(counts) == (expected is not None)


def test_identifiers_are_masked_or_kept_as_the_config_says(tmp_path: Path) -> None:
    rows = [chat("1-0", "Is x@y.org right?", "Yes.")]
    for pii, text in (("mask", "Is [EMAIL] right?"), ("keep", "Is x@y.org right?")):
        summary, kept = cleaned(tmp_path, rows, pii=pii)
        assert kept[0]["messages"][0]["content"] == text
        assert summary.dropped == {"EMAIL found": 1}


def test_both_styles_of_a_question_are_in_the_same_split(tmp_path: Path) -> None:
    rows = [
        chat(
            f"{letter}-{n}-{style}-Guinea-Bissau",
            f"{LONG.format(f'case {letter}{n}' * 9)}\nOption {style}",
            "Yes.",
        )
        for n in range(100)
        for letter in "AB"
        for style in ("1A", "2B")
    ]
    summary, train = cleaned(tmp_path, rows, validation=0.3)
    file = tmp_path / "s" / "clean" / "validation.jsonl"
    groups = Counter(row["group"] for row in train)
    held_out = Counter(json.loads(line)["group"] for line in file.read_text().splitlines())
    assert set(groups.values()) == set(held_out.values()) == {2}
    assert not set(groups) & set(held_out)
    assert 35 <= len(held_out) <= 85  # 200 questions x 0.3, four standard deviations of 6.5
    assert summary.kept == 400
    again, same = cleaned(tmp_path, rows[::-1], validation=0.3)
    assert again.rows == summary.rows
    assert sorted(row["id"] for row in same) == sorted(row["id"] for row in train)


def test_rows_are_records_and_rejected_answers_are_pairs(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    for attempt, text, status in ((0, "Yes. Yes.", REJECTED), (1, "Yes.", OK)):
        reason = "wrong number of sentences" if status == REJECTED else ""
        store.add(Record(key=Key("1-0", "2c", attempt), status=status, reason=reason, text=text, model="m"))
    store.add(Record(key=Key("1-0", "2u", 0), status=REJECTED, reason="role tag", text="(user) x"))
    store.close()
    summary, rows = cleaned(tmp_path, [chat("1-0", "Q?", "A.", "And?", "Yes.")])
    record = parse(rows[0], ColumnsConfig(), form="messages", source="train.jsonl", number=0)
    assert isinstance(record, Instruction)
    assert [turn.role for turn in record.messages] == ["user", "assistant"] * 2
    pair = json.loads((tmp_path / "s" / "clean" / "pairs.jsonl").read_text())
    assert (pair["chosen"], pair["rejected"]) == ("Yes.", "Yes. Yes.")
    assert [turn["content"] for turn in pair["prompt"]] == ["Q?", "A.", "And?"]
    assert summary.rows["pairs.jsonl"] == 1
    published = json.loads((tmp_path / "s" / "clean" / "conversations_train.jsonl").read_text())
    assert published["conversations"][1] == {"from": "assistant", "value": "A."}


def pairs_of(folder: Path, pii: str) -> tuple[list[str], dict[str, int]]:
    summary, _ = cleaned(folder, [chat("1-0", "Q?", "Yes.")], pii=pii)
    lines = (folder / "s" / "clean" / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line)["rejected"] for line in lines], summary.dropped


def test_identifiers_in_rejected_answers_are_treated_as_in_chats(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    key = Key("1-0", "1c", 0)
    store.add(Record(key=key, status=REJECTED, reason="role tag", text="User: mail x@y.org"))
    store.close()
    assert pairs_of(tmp_path, "drop") == ([], {"rejected answer with an identifier": 1})
    assert pairs_of(tmp_path, "mask")[0] == ["User: mail [EMAIL]"]
    assert pairs_of(tmp_path, "keep")[0] == ["User: mail x@y.org"]


def test_chats_of_other_files_are_not_paired_with_rejected_answers_of_this_synthesis(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.add(Record(key=Key("1-0", "1c", 0), status=REJECTED, reason="role tag", text="User: hello"))
    store.close()
    assert pairs_of(tmp_path, "drop")[0] == ["User: hello"]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(chat("1-0", "Another question?", "No.")) + "\n")
    summary, _ = cleaned(tmp_path, [], chats=[str(other)])
    assert "pairs.jsonl" not in summary.rows
    assert not (tmp_path / "s" / "clean" / "pairs.jsonl").exists()


def test_the_same_question_under_two_ids_is_in_one_split(tmp_path: Path) -> None:
    """Without the search for near-duplicates both are kept, since their answer styles differ."""
    rows = [
        chat(f"{letter}-{n}-{style}-Fiji", f"{LONG.format(f'case {n}')}\nOption {style}", "Yes.")
        for n in range(40)
        for letter, style in (("A", "1A"), ("B", "2B"))
    ]
    _, train = cleaned(tmp_path, rows, validation=0.5, near_duplicates=None)
    questions = Counter(row["messages"][0]["content"].partition("\n")[0] for row in train)
    assert 0 < len(questions) < 40
    assert set(questions.values()) == {2}


def test_nothing_left_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="none of 1 chats is left: too short 1"):
        cleaned(tmp_path, [chat("1-0", "Q?", "")])
    file = tmp_path / "synth.yaml"
    file.write_text("{}")
    assert main(["synth", "clean", str(file)]) == 2
    assert "run medray synth chat first" in capsys.readouterr().err
