"""Tests of the batch backend against a real HTTP server that implements files and batches, with faults."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchState, bad, batch_server, good

from medray.backends.batch_files import BatchFolder
from medray.backends.batches import Batches
from medray.backends.build import build
from medray.backends.price import Budget, most_cost
from medray.backends.protocol import BudgetSpentError, Failure, Message, Reply, Request
from medray.config.backends import BackendConfig
from medray.errors import InputError, RunFailedError

FAST = {"first_wait_seconds": 0.01, "longest_wait_seconds": 0.02, "timeout_seconds": 5.0, "retries": 2}
PRICE = {"prompt_per_million": 0.0, "completion_per_million": 1e6}


@pytest.fixture
def state() -> BatchState:
    return BatchState()


@pytest.fixture
def url(state: BatchState) -> Iterator[str]:
    with batch_server(state) as found:
        yield found


def section(url: str, **keys: Any) -> BackendConfig:
    return BackendConfig.model_validate(
        {"type": "batch", "base_url": url, "model": "m", "limits": FAST, "poll_seconds": 0.01} | keys
    )


def requests(count: int, holds: Any = "synthetic") -> list[Request]:
    return [
        Request(
            key=f"ключ {number}",
            messages=(Message(role="user", content=f"\\times 🩺 {number}"),),
            holds=holds,
            max_tokens=10,
        )
        for number in range(count)
    ]


def texts(answers: Any) -> dict[str, str]:
    found = list(answers)
    assert all(isinstance(each, Reply) for each in found), found
    assert len({each.key for each in found}) == len(found)
    return {each.key: each.text for each in found}


EXPECTED = {f"ключ {number}": f"echo \\times 🩺 {number}" for number in range(25)}


def test_shuffled_and_repeated_lines_answer_every_request_once(
    state: BatchState, url: str, tmp_path: Path
) -> None:
    backend = Batches(section(url), "synth", tmp_path / "b", most_lines=10)
    assert texts(backend.answers(requests(25))) == EXPECTED
    assert [len(lines) for lines in state.inputs] == [10, 10, 5]
    line = state.inputs[0][0]
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"] == {
        "model": "m",
        "messages": [{"role": "user", "content": "\\times 🩺 0"}],
        "max_tokens": 10,
        "temperature": 0.0,
    }
    assert "ключ" not in json.dumps(line, ensure_ascii=False)
    assert backend.ignored == {"unknown or repeated id": 25}
    assert backend.usage.replies == 25
    for file in (tmp_path / "b").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_files_are_split_by_bytes_too(state: BatchState, url: str, tmp_path: Path) -> None:
    backend = Batches(section(url), "synth", tmp_path, most_bytes=700)
    assert texts(backend.answers(requests(10))) == dict(list(EXPECTED.items())[:10])
    assert len(state.inputs) > 3
    assert all(len(data) <= 700 for name, data in state.files.items() if name.startswith("file-"))


@pytest.mark.parametrize(
    ("route", "fault"),
    [
        ("upload", 500), ("upload", "cut"), ("create", 429), ("create", "cut"), ("list", 503),
        ("retrieve", 500), ("retrieve", "cut"), ("content", 500), ("content", "half"),
    ],
)  # fmt: skip
def test_a_fault_of_any_call_is_retried_and_no_batch_is_created_twice(
    state: BatchState, url: str, tmp_path: Path, route: str, fault: int | str
) -> None:
    state.faults = {route: [fault]}
    backend = Batches(section(url), "synth", tmp_path)
    assert texts(backend.answers(requests(3))) == dict(list(EXPECTED.items())[:3])
    assert len(state.batches) == 1
    assert sum(backend.usage.retries.values()) == 1


def test_submit_status_and_fetch_in_different_processes(state: BatchState, url: str, tmp_path: Path) -> None:
    state.looks = 2
    first = Batches(section(url), "synth", tmp_path)
    submitted = first.submit(requests(4))
    assert (submitted.batches, submitted.requests, submitted.open_before) == (1, 4, 0)
    again = Batches(section(url), "synth", tmp_path).submit(requests(5))
    assert (again.batches, again.requests, again.open_before) == (2, 1, 4)
    [one, two] = Batches(section(url), "synth", tmp_path).status()
    assert (one.status, one.requests, two.requests) == ("in_progress", 4, 1)
    later = Batches(section(url), "synth", tmp_path)
    assert list(later.fetch()) == []
    assert texts(later.fetch()) == dict(list(EXPECTED.items())[:5])
    assert later.status() == []
    assert list(later.fetch()) == []


@pytest.mark.parametrize("event", ["written", "uploaded", "created"])
def test_a_process_that_was_killed_after_any_step_pays_once(
    state: BatchState, url: str, tmp_path: Path, event: str
) -> None:
    Batches(section(url), "synth", tmp_path).submit(requests(3))
    record = tmp_path / "batches.jsonl"
    events = [json.loads(line)["event"] for line in record.read_text().splitlines()]
    assert events == ["written", "uploaded", "created"]
    kept = record.read_text().splitlines()[: events.index(event) + 1]
    record.write_text("\n".join(kept) + "\n" + '{"number": 2, "ev')
    if event == "written":
        state.batches.clear()  # it was killed before the upload, so that there is no batch
        state.bill = 0
    assert texts(Batches(section(url), "synth", tmp_path).answers(requests(3))) == dict(
        list(EXPECTED.items())[:3]
    )
    assert len(state.batches) == 1
    assert state.bill == 3 * 4


def test_a_caller_that_was_killed_gets_its_answers_again(state: BatchState, url: str, tmp_path: Path) -> None:
    answers = Batches(section(url), "synth", tmp_path).answers(requests(5))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert texts(Batches(section(url), "synth", tmp_path).answers(requests(5))) == dict(
        list(EXPECTED.items())[:5]
    )
    assert len(state.batches) == 1


def test_failed_missing_and_cut_rows_are_failures_with_a_reason(
    state: BatchState, url: str, tmp_path: Path
) -> None:
    def answer(line: dict[str, Any]) -> dict[str, Any] | None:
        number = line["body"]["messages"][0]["content"].split()[-1]
        special = {"0": bad(line, 400), "1": bad(line, 500), "2": None, "3": good(line, "length")}
        return special.get(number, good(line))

    state.answer, state.end, state.extra = answer, "expired", b'{"cut off\n[]\n\n'
    backend = Batches(section(url), "synth", tmp_path)
    found = {each.key: each for each in backend.answers(requests(6))}
    failures = [found[f"ключ {number}"] for number in range(3)]
    assert [each.kind for each in failures if isinstance(each, Failure)] == ["refused", "server", "missing"]
    assert [each.message for each in failures if isinstance(each, Failure)] == [
        "the batch answered 400 (some_code)",
        "the batch answered 500 (some_code)",
        "the batch is expired, and its files have no line for this request",
    ]
    cut = found["ключ 3"]
    assert isinstance(cut, Reply)
    assert cut.finish_reason == "length"
    assert backend.ignored["unreadable line"] == 4  # two in each file
    state.answer, state.end = good, "completed"
    again = texts(Batches(section(url), "synth", tmp_path).answers(requests(3)))
    assert set(again) == {f"ключ {number}" for number in range(3)}


def test_a_batch_that_failed_as_a_whole_loses_no_request(state: BatchState, url: str, tmp_path: Path) -> None:
    state.answer, state.end = lambda line: None, "failed"
    found = list(Batches(section(url), "synth", tmp_path).answers(requests(3)))
    assert [each.kind for each in found if isinstance(each, Failure)] == ["missing"] * 3


def test_what_does_not_fit_into_the_budget_is_not_sent(state: BatchState, url: str, tmp_path: Path) -> None:
    priced = section(url, price=PRICE)
    budget = Budget(3 * most_cost(priced.price, requests(1)[0]) + 1)
    backend = Batches(priced, "synth", tmp_path, budget=budget)
    found: list[Any] = []
    with pytest.raises(BudgetSpentError, match="2 requests were not sent"):
        found += backend.answers(requests(5))
    assert len(found) == 3
    assert budget.spent == state.bill == 3 * 4
    assert budget.reserve(19.0)  # nothing is reserved any more
    open_part = Batches(priced, "synth", tmp_path / "other", budget=Budget(100.0))
    open_part.submit(requests(5))
    later = Budget(100.0)
    Batches(priced, "synth", tmp_path / "other", budget=later)
    assert not later.reserve(51.0)  # the open batch may cost 50


def test_records_stay_here(state: BatchState, url: str, tmp_path: Path) -> None:
    elsewhere = section("https://api.example.invalid/v1")
    backend = Batches(elsewhere, "synth", tmp_path)
    with pytest.raises(InputError, match="2 of 2 requests contain text of records"):
        backend.submit(requests(2, "records"))
    found = list(backend.answers(requests(2, "records")))
    assert [each.kind for each in found if isinstance(each, Failure)] == ["not_allowed"] * 2
    assert not BatchFolder(tmp_path).parts


def test_a_server_without_batches_is_named(state: BatchState, url: str, tmp_path: Path) -> None:
    state.faults = {"upload": [404]}
    with pytest.raises(InputError, match="it has no batch interface") as error:
        Batches(section(url), "synth", tmp_path).submit(requests(1))
    assert error.value.fix == "set type: endpoint for this server"
    state.faults = {"upload": [500] * 9}
    with pytest.raises(RunFailedError, match="the server answered 500"):
        Batches(section(url), "synth", tmp_path).submit(requests(1))


def test_a_section_builds_it(url: str, tmp_path: Path) -> None:
    assert isinstance(build(section(url), "judge", folder=tmp_path), Batches)
    with pytest.raises(InputError, match="a batch cannot answer here"):
        build(section(url), "judge")
