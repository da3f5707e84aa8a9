"""`medray icl` on a small corpus, by words alone and with a model that answers by rule: files, counts, resumes, messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatState, Fault, chat_server
from icl_corpus import DRUGS, write_corpus

from medray.cli.main import main
from medray.data.records import Message
from medray.icl import evaluation
from medray.icl.asking import Said
from medray.icl.prompting import Prompt


class Rule:
    """A model that names the drugs which its examples named, and that are in the text of the question."""

    identity = "rule"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stop_after = 100

    def context(self) -> int | None:
        return 4096

    def count(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) for message in messages)

    def answers(
        self, prompts: Sequence[Prompt], progress: Callable[[int, int], None]
    ) -> Iterator[list[Said]]:
        for prompt in prompts:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(prompt.id)
            shown, _, question = prompt.messages[-1].content.rpartition("Text: ")
            named = [drug for drug in DRUGS if f'"{drug}"' in shown and drug in question]
            yield [Said(id=prompt.id, text=json.dumps(named), tokens=3, finish="stop")]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Rule:
    rule = Rule()
    monkeypatch.setattr(evaluation, "named_model", lambda file: None)
    monkeypatch.setattr(evaluation, "LocalModel", lambda asked, batch_size: rule)
    return rule


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_corpus(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["icl", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_index_and_select_write_what_the_seed_wrote(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = said(capsys, "index", config)
    assert (index["documents"], index["kind"]) == (8, "bm25")
    found = said(capsys, "select", config)
    assert found["fewer_than_top_n"] == 2, "two test documents share words with one other document"
    best = json.loads(Path(found["file"]).read_text())
    assert best["test-1"] == ["train-1"]
    assert "train-0" not in best["test-0"], "its text is equal"


def test_a_second_command_does_nothing_again(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "select", config)
    assert main(["icl", "select", str(config)]) == 0
    err = capsys.readouterr().err
    assert "index is up to date" in err
    assert "selected.jsonl is up to date" in err
    assert main(["icl", "select", str(config), "icl.top_n=2"]) == 0
    err = capsys.readouterr().err
    assert "index is up to date" in err
    assert "selected.jsonl is up to date" not in err


def test_a_changed_group_of_training_documents_repeats_the_selection(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = config.parent / "test.jsonl"
    rows = [json.loads(line) | {"patient": "p1"} for line in test.read_text().splitlines()]
    test.write_text("".join(json.dumps(each) + "\n" for each in rows))
    group = "data.columns.group=patient"
    found = said(capsys, "select", config, group)
    assert json.loads(Path(found["file"]).read_text())["test-1"] == ["train-1"]
    train = config.parent / "train.jsonl"
    train.write_text(train.read_text().replace('"train-1"', '"train-1", "patient": "p1"'))
    found = said(capsys, "select", config, group)
    assert json.loads(Path(found["file"]).read_text())["test-1"] == [], "it is of the same patient now"


def test_prompts_are_written_with_random_ones_of_the_same_number(
    config: Path, model: Rule, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, "prompt", config)
    assert sorted(found) == ["random-2", "retrieved-2"]
    assert found["random-2"]["examples"] == 6
    lines = Path(found["retrieved-2"]["file"]).read_text().splitlines()
    row = json.loads(lines[1])
    assert row["id"] == "test-1"
    assert row["examples"] == ["train-1"]
    assert 'Answer: ["heparin"]' in row["messages"][0]["content"]
    template = json.loads((config.parent / "runs/small/template.json").read_text())
    assert template["statement"].startswith("List every Drug")


def test_a_run_scores_and_compares_and_resumes(
    config: Path, model: Rule, capsys: pytest.CaptureFixture[str]
) -> None:
    model.stop_after = 2
    assert main(["icl", "run", str(config)]) == 130
    capsys.readouterr()
    assert main(["icl", "score", str(config)]) == 0
    assert "1 of 3 documents have no answer to their prompt" in capsys.readouterr().err
    model.stop_after = 100
    found = said(capsys, "run", config)
    assert sorted(model.asked) == ["test-0", "test-0", "test-1", "test-1", "test-2", "test-2"]
    assert found["asked"] == "retrieved-2"
    assert found["unanswered"] == 0
    assert found["random_examples"] == "measured"
    # test-0 has no example with its drug; the examples of test-1 and test-2 have theirs
    assert found["scores"]["retrieved-2"]["ner_recall"]["value"] == pytest.approx(2 / 3)
    assert found["differences"]["retrieved-2 - random-2"]["documents"] == 3
    assert said(capsys, "run", config) == found
    assert len(model.asked) == 6
    rows = (config.parent / "runs/small/scores-retrieved-2.jsonl").read_text().splitlines()
    assert [json.loads(row)["right"] for row in rows] == [0, 1, 1]


def test_a_score_without_random_examples_says_so(
    config: Path, model: Rule, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, "run", config, "icl.compare_random=false")
    assert found["random_examples"] == "not measured"
    assert (
        said(capsys, "run", config, "icl.strategy=random")["random_examples"]
        == "the asked examples are random"
    )
    assert said(capsys, "run", config, "icl.shots=0")["random_examples"] == "no examples were asked for"


def test_answers_of_another_budget_are_not_compared(
    config: Path, model: Rule, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "run", config)
    found = said(capsys, "run", config, "icl.compare_random=false", "icl.max_prompt_tokens=64")
    assert found["random_examples"] == "not measured"
    assert list(found["scores"]) == ["retrieved-2"]


def test_more_documents_keep_the_answers_and_other_prompts_do_not(
    config: Path, model: Rule, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "run", config, "answers.documents=2")
    assert model.asked == ["test-0", "test-1"] * 2
    said(capsys, "run", config)
    assert model.asked == [*["test-0", "test-1"] * 2, "test-2", "test-2"]
    assert main(["icl", "score", str(config), "run.seed=9"]) == 0, (
        "retrieved examples do not depend on the seed"
    )
    found = said(capsys, "run", config, "icl.order=best_last", "icl.compare_random=false")
    asked = model.asked[6:]
    assert asked == ["test-0"], "the others have one example, which has no order"
    assert found["scores"]["retrieved-2"]["documents"] == 3
    # The file is one that medray eval reads.
    answers = config.parent / "runs/small/answers-random-2.jsonl"
    assert main(["eval", str(answers), "--metrics", "ner_f1"]) == 0


def test_a_file_of_answers_is_scored(config: Path, model: Rule, capsys: pytest.CaptureFixture[str]) -> None:
    file = config.parent / "answers.jsonl"
    rows = [{"id": "test-1", "prediction": '["heparin"]'}, {"id": "test-2", "prediction": "none of it"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = said(capsys, "score", config, "--answers", file)
    assert found["scores"]["file"]["documents"] == 2
    assert found["scores"]["file"]["ner_unparsed"]["value"] == 0.5
    file.write_text('{"id": "other", "prediction": ""}\n')
    assert main(["icl", "score", str(config), "--answers", str(file)]) == 2
    assert (
        "none of the answers belongs to the prompts of this config and one of its 3 test documents"
        in capsys.readouterr().err
    )


def test_a_server_answers_and_what_failed_is_asked_again(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ChatState()
    with chat_server(state) as url:
        server = [f"backend.base_url={url}", "backend.model=m", "backend.limits.retries=0"]
        state.faults.append(Fault(status=400))
        assert main(["icl", "run", str(config), *server]) == 1
        assert "1 of 3 requests failed" in capsys.readouterr().err
        found = said(capsys, "run", config, *server)
        assert len(state.bodies) == 7, "three prompts, random ones too, and one again"
    assert found["scores"]["retrieved-2"]["documents"] == 3
    assert sum("Here is 1 example" in body["messages"][0]["content"] for body in state.bodies) >= 2


def test_a_server_elsewhere_gets_no_text_of_records(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = ["backend.base_url=https://api.example.com/v1", "backend.model=m"]
    assert main(["icl", "run", str(config), *server]) == 2
    err = capsys.readouterr().err
    assert "3 of 3 requests contain text of records" in err
    assert "set may_receive: records" in err
    assert main(["icl", "run", str(config), *server, "icl.max_prompt_tokens=100"]) == 2
    assert "needs a tokenizer" in capsys.readouterr().err


def test_leave_one_out_chooses_on_training_documents(
    config: Path, model: Rule, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(
        capsys,
        "run",
        config,
        "--choose",
        "icl.choose.shots=[0,2]",
        "icl.choose.documents=4",
        "data.held_out=null",
    )
    chosen = json.loads((config.parent / "runs/small/choose.json").read_text())
    assert chosen["documents"] == 4
    # No other training document has the drug of the one that is left out: all score 0, and fewer examples win.
    assert chosen["chosen"]["shots"] == 0
    assert found["asked"] == "zero"
    assert main(["icl", "run", str(config), "--choose"]) == 2
    assert "nothing to choose from" in capsys.readouterr().err


def test_score_before_run_and_a_missing_library_say_what_to_do(
    config: Path, model: Rule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model, "context", lambda: pytest.fail("the model is not needed"))
        assert main(["icl", "score", str(config)]) == 2
    assert "run medray icl run CONFIG first" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["icl", "index", str(config)]) == 2
    assert "Fix: run pip install 'medray[icl]'" in capsys.readouterr().err
