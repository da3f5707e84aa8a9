"""Tests of the import of published files at every step, and of `medray synth inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synth_lists

from medray.backends.function import FunctionBackend
from medray.backends.protocol import Request
from medray.cli.main import main
from medray.config.synth import SynthConfig
from medray.errors import InputError
from medray.synth import published, published_results
from medray.synth.chat.run import chat

LISTS = synth_lists.lists()


def write(file: Path, rows: list[dict[str, Any]], *, as_list: bool = False) -> Path:
    text = json.dumps(rows) if as_list else "".join(json.dumps(row) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")
    return file


def batch_line(name: str, text: str, reason: str = "stop", status: int = 200) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "finish_reason": reason,
    }
    return {
        "id": "batch_req",
        "custom_id": name,
        "response": {"status_code": status, "request_id": "r", "body": {"model": "gpt", "choices": [choice]}},
        "error": None,
    }


def test_parsed_questions_tell_part_speaker_and_country(tmp_path: Path) -> None:
    profession, specialty = LISTS.professions[2].name, LISTS.professions[2].specialties[1]
    rows: list[dict[str, Any]] = [
        {"id": "20-7", "prompt": "Q?", "context": f"{profession}, {specialty}, domain 3"},
        {"id": "11-900", "prompt": "Q?", "context": "task 11, subtopic 900"},
        {
            "id": "A-0-2E-Guinea-Bissau",
            "prompt": "Q?\noption",
            "context": [1, "task 0", 1, "Obstetrics and Gynecology"],
        },
        {"id": "D-150-EM-Fiji", "prompt": "Q?\noption", "context": [1, "task 0", 151, "Pediatrics"]},
    ]
    one, two, three, four = published.questions(
        write(tmp_path / "parsed_prompts_1.json", rows, as_list=True), LISTS
    )
    assert (one.part, one.speaker) == (1, f"{profession} specialized in {specialty}")
    assert (two.part, two.speaker, two.country) == (2, "physician", None)
    assert (three.country, three.style) == ("Guinea-Bissau", "2E")
    assert three.speaker == "profession 0 specialized in Obstetrics and Gynecology"
    assert (four.style, four.speaker) == ("EM", "physician")


def test_published_replies_become_questions(tmp_path: Path) -> None:
    countries = ",".join(group[0] for group in LISTS.countries)  # each name contains a comma
    four = "1. a?\n###\n2. b?\n###\n3. c?\n###\n4. d?"
    file = write(
        tmp_path / "gpt_results.jsonl",
        [
            batch_line("6320", "Last of part 1?"),
            batch_line("12-975", '"Last of part 2?"'),
            batch_line(f"2586-{countries}", four),
            batch_line(f"5-{countries}", four, "length"),
            batch_line("3", "x", status=500),
        ],
    )
    assert published_results.is_results(file)
    found, dropped = published_results.questions(file, LISTS, 1, strip_quotes=True)
    assert [row.id for row in found[:2]] == ["20-6320", "12-975"]
    assert found[1].prompt == "Last of part 2?"
    assert len(found) == 2 + 4 * 2
    assert found[2].country == LISTS.countries[0][0]
    assert found[2].context == (13, "task 12", 199, "topic 48")
    assert dict(dropped) == {"finish_reason length": 1, "status 500": 1}
    write(file, [batch_line("999999", "?")])
    with pytest.raises(InputError, match="do not explain this custom_id"):
        published_results.questions(file, LISTS, 1, strip_quotes=True)


def situation(name: str, turns: int) -> dict[str, Any]:
    drawn = ["normal", "no_specification", "bullets", "standard", "short", "standard", "physician"]
    return {
        "id": name,
        "nbr_of_turns": turns,
        "initial_prompt": f"Q of {name}?",
        "system_prompt_chatbot": "Be a chatbot.",
        "system_prompt_user": "Be a user.",
        "multiturn_style_parameters": drawn,
    }


def test_published_situations_chats_and_turn_files_are_continued(tmp_path: Path) -> None:
    """A chat in progress keeps its messages, a turn file gives the next one, and the rest is asked for."""
    rows = [situation(f"12-{n}", 2) for n in range(3)]
    chats = [
        {
            "id": "12-0",
            "conversation": [{"role": "user", "value": "Q of 12-0?"}, {"role": "chatbot", "value": "A"}],
        },
        {"id": "12-9", "conversation": [{"role": "user", "value": "Q?"}]},
    ]
    turn = [batch_line(f"12-{n}", f"First answer {n}") for n in range(2)]
    inputs = {
        "situations": [str(write(tmp_path / "situations_2.jsonl", rows))],
        "chats": [str(write(tmp_path / "multiturn_2.jsonl", chats))],
    }
    config = SynthConfig.model_validate(
        {
            "run": {"storage": str(tmp_path), "name": "s"},
            "inputs": inputs,
            "backend": {"type": "local", "model": "m"},
        }
    )
    asked: list[Request] = []

    def answer(batch: Any) -> list[str]:
        asked.extend(batch)
        return [f"Reply to {request.key}" for request in batch]

    replies = write(tmp_path / "gpt_results_2_turn_1c.jsonl", turn)
    summary = chat(
        config, replies=[replies], step="1c", local=lambda section, where: FunctionBackend("m", answer)
    )
    assert summary.status == "done"
    assert summary.chats == 4
    made = {
        row["id"]: [turn["value"] for turn in row["conversation"]]
        for row in map(json.loads, (tmp_path / "s" / "chats.jsonl").read_text().splitlines())
    }
    assert made["12-0"] == ["Q of 12-0?", "A", "Reply to 12-0|2u|0", "Reply to 12-0|2c|0"]
    assert made["12-1"][1] == "First answer 1"
    assert made["12-2"][1] == "Reply to 12-2|1c|0"
    assert asked[0].messages[0].content in ("Be a user.", "Be a chatbot.")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([{"id": "1-1", "prompt": ""}], "not an opening question"),
        ([5], "not a JSON object"),
    ],
)
def test_wrong_rows_are_named_with_their_position(tmp_path: Path, rows: list[Any], what: str) -> None:
    file = write(tmp_path / "x.json", rows, as_list=True)
    with pytest.raises(InputError, match=what) as error:
        list(published.questions(file, LISTS))
    assert "[0]" in str(error.value.file)


def test_a_chat_whose_roles_do_not_alternate_is_refused(tmp_path: Path) -> None:
    turns = [{"from": "user", "value": "a"}, {"from": "user", "value": "b"}]
    file = write(tmp_path / "x.jsonl", [{"id": "1-1", "conversations": turns}])
    with pytest.raises(InputError, match="message 1 is not of the chatbot"):
        list(published.chats(file))


def test_inspect_counts_any_file_without_its_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "Mrs Example"
    files = {
        "questions": [{"id": "20-1", "prompt": secret, "context": "a, b, c"}],
        "situations": [situation("12-0", 3) | {"initial_prompt": secret}],
        "chats": [{"id": "12-0", "conversations": [{"from": "user", "value": f"(user) {secret}"}]}],
        "replies": [batch_line("12-0|2c|0", secret, "length"), batch_line("12-0|2c|0", secret)],
        "requests": [{"custom_id": "12-0|2c|0", "body": {"model": "gpt", "messages": [{"content": secret}]}}],
    }
    found = {}
    for kind, rows in files.items():
        assert main(["synth", "inspect", str(write(tmp_path / f"{kind}.jsonl", rows)), "--json"]) == 0
        shown = capsys.readouterr()
        assert secret not in shown.out + shown.err
        found[kind] = json.loads(shown.out)
        assert found[kind]["kind"] == kind
    assert found["chats"]["counts"]["problems"] == {"role tag": 1, "ends with the user": 1}
    assert found["replies"]["repeated_ids"] == 1
    assert found["replies"]["counts"]["finish_reason"] == {"length": 1, "stop": 1}
    assert main(["synth", "inspect", str(tmp_path)]) == 2
    assert main(["synth", "inspect", str(write(tmp_path / "x.jsonl", [{"a": 1}]))]) == 2
