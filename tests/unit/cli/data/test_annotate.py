"""Tests of `medray data annotate` against a real HTTP server in this process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchState, batch_server, good
from chat_server import ChatState, Fault, chat_server

from medray.cli.main import main
from medray.config.annotate import PROMPT, read_annotate

FAST = "limits: {first_wait_seconds: 0.01, longest_wait_seconds: 0.02, retries: 1, timeout_seconds: 5}"
PRICE = "price: {prompt_per_million: 0, completion_per_million: 1000000}"


@dataclass
class Corpus:
    """A folder with a config, records and the server that is the teacher."""

    folder: Path
    url: str
    state: ChatState

    def write(self, rows: list[dict[str, Any]], more: str = "", teacher: str = "") -> str:
        (self.folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        section = f"{{base_url: '{self.url}', model: m, {FAST}{teacher}}}"
        text = f"data: {{train: train.jsonl}}\nto: out.jsonl\nteacher: {section}\n{more}\n"
        (self.folder / "annotate.yaml").write_text(text)
        return str(self.folder / "annotate.yaml")

    @property
    def sent(self) -> int:
        return len(self.state.bodies)

    def written(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]

    def samples(self) -> list[dict[str, Any]]:
        text = (self.folder / "out.jsonl.annotate" / "samples.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    state = ChatState(reply=lambda body: "Because.\nAnswer: yes")
    with chat_server(state) as url:
        yield Corpus(tmp_path, url, state)


def rows(count: int = 4, label: str = "yes") -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "input": f"question {n}?", "label": label} for n in range(count)]


def by_question(answers: dict[int, list[str]]) -> Callable[[dict[str, Any]], str]:
    """Return a teacher that gives these replies to a question, one after the other; `yes` to other questions."""

    def reply(body: dict[str, Any]) -> str:
        for number, left in answers.items():
            if f"question {number}?" in body["messages"][-1]["content"]:
                return left.pop(0)
        return "Because.\nAnswer: yes"

    return reply


def test_right_samples_become_rationales_and_wrong_ones_are_counted(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.state.reply = by_question(
        {
            1: ["A guess.\nAnswer: no", "On reflection.\n**Answer:** yes."],
            2: ["I do not know", "", "Answer: yes"],
            3: ["No.\nAnswer: no"] * 3,
        }
    )
    assert main(["data", "annotate", corpus.write(rows(), "samples: 3"), "--json"]) == 0
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert found["samples"] == {"right": 2, "wrong": 4, "unparsed": 1, "empty": 2, "cut": 0}
    assert found["share_with_rationale"] == 0.5
    assert found["first_sample_right"] == 0.25
    assert corpus.sent == 1 + 2 + 3 + 3  # a record with a right sample is not asked again
    assert [row.get("rationale") for row in corpus.written()] == ["Because.", "On reflection.", None, None]
    assert corpus.written()[0] == {
        "id": "r0",
        "input": "question 0?",
        "label": "yes",
        "rationale": "Because.",
    }
    assert "question" not in out.err
    assert {body["temperature"] for body in corpus.state.bodies} == {0.7}
    prompt = json.loads((corpus.folder / "out.jsonl.annotate" / "prompt.json").read_text())
    assert "{input}" in prompt["prompt"]


def test_a_cut_sample_is_not_used_and_other_rows_may_be_dropped(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.state.faults = [Fault(finish_reason="length")]
    config = corpus.write(rows(2), "filter: {others: drop}", teacher="")
    assert main(["data", "annotate", config, "teacher.limits.concurrency=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"]["cut"] == 1
    assert [row["id"] for row in corpus.written()] == ["r1"]


def test_the_majority_must_be_the_label(corpus: Corpus) -> None:
    corpus.state.reply = by_question({0: ["x\nAnswer: no", "x\nAnswer: no", "y\nAnswer: yes"]})
    config = corpus.write(rows(2), "samples: 3\nfilter: {keep: majority}")
    assert main(["data", "annotate", config]) == 0
    assert [row.get("rationale") for row in corpus.written()] == [None, "Because."]
    assert corpus.sent == 6
    assert main(["data", "annotate", config, "filter.keep=all"]) == 0  # a changed filter asks nothing
    assert [row.get("rationale") for row in corpus.written()] == [["y"], ["Because."]]
    assert corpus.sent == 6


def test_arithmetic_is_compared_by_value(corpus: Corpus) -> None:
    corpus.state.reply = lambda body: "Half of 84.\nAnswer: 84 / 2"
    assert main(["data", "annotate", corpus.write(rows(1, "( 40.0 + 2.0 )"))]) == 0
    assert corpus.written()[0]["rationale"] == "Half of 84."


def test_a_second_start_asks_only_for_what_failed(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    corpus.state.fault_of = lambda body: Fault(status=400 if "question 2?" in str(body) else 200)
    config = corpus.write(rows())
    assert main(["data", "annotate", config]) == 1
    error = capsys.readouterr().err
    assert "1 records are not decided, because requests failed; the server answered 400 (x): 1" in error
    assert [row["id"] for row in corpus.written()] == ["r0", "r1", "r3"]
    corpus.state.fault_of = None
    assert main(["data", "annotate", config]) == 0
    assert [row["id"] for row in corpus.written()] == ["r0", "r1", "r2", "r3"]
    assert corpus.sent == 5
    assert main(["data", "annotate", config, "prompt='Explain: {input}'"]) == 0
    assert corpus.sent == 9  # another prompt asks again


def test_the_budget_holds_over_all_starts(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    config = corpus.write(rows(30), "max_new_tokens: 10\nbudget: 50", teacher=f", {PRICE}")
    assert main(["data", "annotate", config]) == 1
    assert "of the budget 50 is spent" in capsys.readouterr().err
    assert 40 <= corpus.state.bill <= 50
    assert main(["data", "annotate", config]) == 1
    assert corpus.state.bill <= 50
    assert main(["data", "annotate", config, "budget=500"]) == 0
    assert corpus.state.bill == 30 * 3  # no reply was paid twice


def test_a_dry_run_shows_the_cost_and_sends_nothing(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    config = corpus.write(rows(), "samples: 2", teacher=f", {PRICE}")
    assert main(["data", "annotate", config, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "at most 8, about" in out
    assert "at most 4,096" in out
    assert not corpus.sent
    assert not (corpus.folder / "out.jsonl.annotate").exists()


def test_records_are_refused_for_a_server_elsewhere(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    config = corpus.write(rows())
    elsewhere = "teacher.base_url=https://api.example.invalid/v1"
    assert main(["data", "annotate", config, elsewhere]) == 2
    error = capsys.readouterr().err
    assert "teacher.may_receive" in error
    assert "4 of 4 requests contain text of records, and api.example.invalid is not this machine" in error
    assert main(["data", "annotate", config, elsewhere, "holds=synthetic", "--dry-run"]) == 0


def test_a_file_of_somebody_else_is_not_overwritten(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    config = corpus.write(rows(1))
    (corpus.folder / "mine.jsonl").write_text("mine")
    assert main(["data", "annotate", config, "--to", str(corpus.folder / "mine.jsonl")]) == 2
    assert "the file exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("prompt: Explain it.", "contains no {input}"),
        ("prompt: '{input} {note}'", "{note}"),
        ("prompt: '{input} is {label}. Why?'", "proves nothing"),
        ("samples: 2\ntemperature: 0", "are the same"),
        ("filter: {keep: majority}", "a majority needs at least 3"),
        ("budget: 3", "the teacher has no price"),
        ("ask: rationale", "only a local run"),
        ("sample: 3", "did you mean samples?"),
        ("split: validation", "has no validation data"),
    ],
)
def test_a_wrong_config_names_the_key(
    corpus: Corpus, more: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "annotate", corpus.write(rows(1), more)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Fix:" in error
    assert not corpus.sent


def test_the_recipe_is_a_config() -> None:
    recipe = read_annotate(Path(__file__).parents[4] / "configs" / "annotate.yaml")
    assert recipe.prompt.split() == PROMPT.split()  # the built-in prompt, with other line ends
    assert recipe.data.train[0].path.endswith("/configs/train.jsonl")


def test_no_rationale_at_all_is_a_failure(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "annotate", corpus.write(rows(2, "no"))]) == 1
    assert "no rationale was kept" in capsys.readouterr().err


def test_a_teacher_may_answer_by_batches(corpus: Corpus) -> None:
    def explained(line: dict[str, Any]) -> dict[str, Any]:
        found = good(line)
        found["response"]["body"]["choices"][0]["message"]["content"] = "So.\nAnswer: yes"
        return found

    state = BatchState(answer=explained)
    with batch_server(state) as url:
        config = corpus.write(rows(3), "samples: 2")
        batch = f"type: batch, poll_seconds: 0.01, base_url: '{url}'"
        Path(config).write_text(Path(config).read_text().replace(f"base_url: '{corpus.url}'", batch))
        assert main(["data", "annotate", config]) == 0
        assert main(["data", "annotate", config]) == 0
    assert [len(lines) for lines in state.inputs] == [6]  # all samples at once, and only once
    assert [row["rationale"] for row in corpus.written()] == ["So."] * 3


@pytest.mark.long
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_start_loses_the_requests_in_flight_at_most(corpus: Corpus, sign: signal.Signals) -> None:
    """After Ctrl-C, replies on their way are awaited and kept; a kill loses those of all connections."""
    count, concurrency = 40, 4
    corpus.state.fault_of = lambda body: Fault(seconds=0.05)
    config = corpus.write(rows(count))
    process = subprocess.Popen(
        [sys.executable, "-m", "medray", "data", "annotate", config],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while corpus.sent < count // 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sign)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if sign == signal.SIGINT else -sign), error
    assert not (corpus.folder / "out.jsonl").exists()
    samples = corpus.folder / "out.jsonl.annotate" / "samples.jsonl"
    with samples.open("ab") as stream:
        stream.write(b'{"item": "r1", "text": "half a li')  # a kill in the middle of a line
    assert main(["data", "annotate", config]) == 0
    assert len(corpus.written()) == count
    assert len(corpus.samples()) == count
    assert corpus.sent - count <= (concurrency if sign == signal.SIGKILL else 0)
