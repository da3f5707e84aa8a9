"""Tests of `medray judge` against two real HTTP servers in this process."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchState, batch_server, good
from chat_server import ChatState, Fault, chat_server

from medray.cli.main import main

PRICE = "price: {prompt_per_million: 0, completion_per_million: 1000000}"
FAST = "limits: {first_wait_seconds: 0.01, longest_wait_seconds: 0.02, retries: 1, timeout_seconds: 5}"


def verdict(word: str) -> str:
    return json.dumps({"verdict": word, "reason": f"because of {word}"})


@dataclass
class Review:
    """A config with two servers. first, second: their states."""

    folder: Path
    urls: tuple[str, str]
    first: ChatState
    second: ChatState

    def write(self, count: int = 6, more: str = "", judge: str = "") -> str:
        rows = [
            {"id": f"i{number}", "input": f"task {number}", "answer": f"answer {number}", "gold": "answer 0"}
            for number in range(count)
        ]
        (self.folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        judges = "".join(
            f"\n- {{name: {name}, base_url: '{url}', model: m, {FAST}{judge}}}"
            for name, url in zip("ab", self.urls, strict=True)
        )
        text = f"items: items.jsonl\nfolder: judged\n{more}\njudges:{judges}\n"
        (self.folder / "judge.yaml").write_text(text)
        return str(self.folder / "judge.yaml")

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "judged" / "report.json").read_text())
        return found


@pytest.fixture
def review(tmp_path: Path) -> Iterator[Review]:
    states = ChatState(reply=lambda body: verdict("correct")), ChatState(reply=differing)
    with ExitStack() as stack:
        first, second = (stack.enter_context(chat_server(state)) for state in states)
        yield Review(tmp_path, (first, second), *states)


def differing(body: dict[str, Any]) -> str:
    """Return a verdict that differs from the other judge's for the tasks 1 and 3."""
    text = body["messages"][1]["content"]
    return verdict("incorrect" if "task 1" in text or "task 3" in text else "correct")


def test_two_judges_agree_or_leave_it_to_a_person(
    review: Review, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = review.write()
    assert main(["judge", config, "--json"]) == 0
    out = capsys.readouterr()
    numbers = json.loads(out.out)
    assert numbers["states"] == {"pending": 0, "agreed": 4, "disputed": 2, "resolved": 0}
    assert numbers["agreement_rate"] == 4 / 6
    assert numbers["unresolved"] == ["i1", "i3"]
    assert "answer 1" not in out.err
    assert len(review.first.bodies) == len(review.second.bodies) == 6
    assert {body["temperature"] for body in review.first.bodies} == {0.0}
    assert "because of" not in str(review.second.bodies)  # neither judge sees the other's verdict

    monkeypatch.setattr("sys.stdin", io.StringIO("i\n"))
    assert main(["judge", "review", str(review.folder / "judged" / "queue.csv")]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("c\n"))
    assert main(["judge", "review", str(review.folder / "judged")]) == 0
    found = review.report()
    assert found["states"] == {"pending": 0, "agreed": 4, "disputed": 0, "resolved": 2}
    assert found["decided_by_people"] == 2 / 6
    assert found["paths"]["person"]["accuracy"] == 0.5

    capsys.readouterr()
    assert main(["judge", "run", config, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["states"] == found["states"]
    assert len(review.first.bodies) == 6  # nothing is asked twice


def test_unreadable_verdicts_are_asked_again_counted_and_disputed(
    review: Review, capsys: pytest.CaptureFixture[str]
) -> None:
    review.second.reply = lambda body: (
        verdict("correct") if len(body["messages"]) > 2 and "task 0" in str(body) else "I cannot say"
    )
    assert main(["judge", review.write(2), "tries=2", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["states"] == {"pending": 0, "agreed": 1, "disputed": 1, "resolved": 0}
    assert numbers["judges"]["b"] == {"correct": 1, "unreadable": 1}
    assert len(review.second.bodies) == 4
    queue = (review.folder / "judged" / "queue.jsonl").read_text()
    assert json.loads(queue)["verdict_b"] == "unreadable"


def test_a_missing_verdict_is_pending_and_asked_again_by_the_next_start(
    review: Review, capsys: pytest.CaptureFixture[str]
) -> None:
    review.first.fault_of = lambda body: Fault(status=400 if "task 2" in str(body) else 200)
    config = review.write()
    assert main(["judge", config]) == 1
    out = capsys.readouterr()
    assert "1 items have no verdict of both judges (a: the server answered 400 (x) (1 times))" in out.err
    assert review.report()["unresolved"] == ["i1", "i2", "i3"]
    review.first.fault_of = None
    assert main(["judge", config]) == 0
    assert review.report()["states"]["pending"] == 0
    assert len(review.first.bodies) == 7


def test_a_changed_item_is_judged_again(review: Review) -> None:
    config = review.write()
    assert main(["judge", config]) == 0
    items = review.folder / "items.jsonl"
    items.write_text(items.read_text().replace("answer 1", "another answer"))
    assert main(["judge", config]) == 0
    assert len(review.first.bodies) == 7


def test_the_budget_holds_over_all_starts(review: Review, capsys: pytest.CaptureFixture[str]) -> None:
    config = review.write(30, more="max_new_tokens: 10\nbudget: 100", judge=f", {PRICE}")
    assert main(["judge", config]) == 1
    assert "of the budget 100 is spent" in capsys.readouterr().err
    spent = review.first.bill + review.second.bill
    assert 90 <= spent <= 100
    assert main(["judge", config]) == 1
    assert review.first.bill + review.second.bill <= 100
    assert main(["judge", config, "budget=1000"]) == 0
    assert review.report()["states"]["pending"] == 0
    assert review.first.bill == 30 * 6  # no reply was paid twice


def test_a_dry_run_shows_requests_and_cost_and_sends_nothing(
    review: Review, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", review.write(judge=f", {PRICE}"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "6 requests" in out
    assert "cost at most 1,536" in out
    assert not review.first.bodies
    assert not (review.folder / "judged").exists()


def test_records_are_refused_for_a_server_elsewhere(
    review: Review, capsys: pytest.CaptureFixture[str]
) -> None:
    config = review.write()
    text = Path(config).read_text().replace(review.urls[1], "https://api.example.invalid/v1")
    Path(config).write_text(text)
    assert main(["judge", config]) == 2
    error = capsys.readouterr().err
    assert "judges[1].may_receive" in error
    assert "6 of 6 requests contain text of records, and api.example.invalid is not this machine" in error
    assert not review.first.bodies


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("items: a.jsonl\nfolder: x\njudges: []", "judges"),
        ("items: a.jsonl\nfolder: x\njudges:\n- {name: a, type: rule, rule: exact}\n- {name: a, type: rule, rule: exact}",
         "both judges are called a"),
        ("items: a.jsonl\nfolder: x\nbudget: 5\njudges:\n- {name: a, type: rule, rule: exact}\n- {name: b, type: rule, rule: exact}",
         "no judge has a price"),
        ("item: a.jsonl", "did you mean items?"),
        ("items: none.jsonl\nfolder: x\njudges:\n- {name: a, type: rule, rule: exact}\n- {name: b, type: rule, rule: exact}",
         "none.jsonl"),
    ],
)  # fmt: skip
def test_a_wrong_config_names_the_key(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "judge.yaml").write_text(text)
    assert main(["judge", str(tmp_path / "judge.yaml")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Fix:" in error


def test_two_rules_need_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": "1", "input": "x", "answer": ["a"], "gold": ["a", "b"]},
        {"id": "2", "input": "x", "answer": ["a"], "gold": ["A"]},
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.yaml").write_text(
        "items: items.jsonl\nfolder: judged\njudges:\n- {name: strict, type: rule, rule: exact}\n"
        "- {name: mild, type: rule, rule: overlap}\n"
    )
    assert main(["judge", str(tmp_path / "judge.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unresolved"] == ["1"]


def test_recorded_replies_that_were_corrected_are_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "items.jsonl").write_text('{"id": "1", "input": "x", "answer": "a", "gold": "b"}\n')
    (tmp_path / "judge.yaml").write_text(
        "items: items.jsonl\nfolder: judged\njudges:\n- {name: strict, type: rule, rule: exact}\n"
        "- {name: told, type: replay, file: replies.jsonl}\n"
    )
    for word, agreed in (("correct", 0), ("incorrect", 1), ("incorrect", 1)):
        (tmp_path / "replies.jsonl").write_text(json.dumps({"key": "1#1", "text": verdict(word)}) + "\n")
        assert main(["judge", str(tmp_path / "judge.yaml"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["states"]["agreed"] == agreed
    assert len((tmp_path / "judged" / "verdicts.jsonl").read_text().splitlines()) == 3


@pytest.mark.long
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_start_loses_the_requests_in_flight_at_most(review: Review, sign: signal.Signals) -> None:
    """After Ctrl-C, replies on their way are awaited and kept; a kill loses those of both judges' connections."""
    count, concurrency = 40, 4
    for server in (review.first, review.second):
        server.fault_of = lambda body: Fault(seconds=0.05)
    config = review.write(count)
    process = subprocess.Popen(
        [sys.executable, "-m", "medray", "judge", config], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while len(review.first.bodies) < count // 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sign)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if sign == signal.SIGINT else -sign), error
    assert len(review.first.bodies) < count
    verdicts = (review.folder / "judged" / "verdicts.jsonl").read_text().splitlines()
    assert main(["judge", config]) == 0
    assert review.report()["states"]["pending"] == 0
    sent = len(review.first.bodies) + len(review.second.bodies)
    assert sent - 2 * count <= (2 * concurrency if sign == signal.SIGKILL else 0)
    assert len(verdicts) >= count // 2


def test_a_judge_may_answer_by_batches(review: Review, capsys: pytest.CaptureFixture[str]) -> None:
    def judged(line: dict[str, Any]) -> dict[str, Any]:
        found = good(line)
        found["response"]["body"]["choices"][0]["message"]["content"] = verdict("correct")
        return found

    state = BatchState(answer=judged)
    with batch_server(state) as url:
        config = review.write()
        text = Path(config).read_text()
        batch = f"type: batch, poll_seconds: 0.01, base_url: '{url}'"
        Path(config).write_text(text.replace(f"base_url: '{review.urls[1]}'", batch))
        assert main(["judge", config, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["states"]["agreed"] == 6
        assert [len(lines) for lines in state.inputs] == [6]
        assert main(["judge", config]) == 0
    assert len(state.batches) == 1


def test_a_second_start_at_the_same_time_is_refused(
    review: Review, capsys: pytest.CaptureFixture[str]
) -> None:
    from medray.evaluate.judge.state import locked

    config = review.write()
    (review.folder / "judged").mkdir()
    with locked(review.folder / "judged" / ".judge.lock"):
        assert main(["judge", config]) == 2
    assert "another medray judge is writing" in capsys.readouterr().err


def test_review_refuses_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "review", str(tmp_path)]) == 2
    assert "is not a folder of `medray judge`" in capsys.readouterr().err
