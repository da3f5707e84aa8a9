"""Tests of pace, waits, prices, the wall, recorded replies and functions, without a server."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from medray.backends import wall
from medray.backends.build import build
from medray.backends.function import FunctionBackend
from medray.backends.pace import Pace, retry_after, retry_wait
from medray.backends.price import Budget, estimate, most_prompt_tokens, prompt_tokens
from medray.backends.protocol import Failure, Message, Reply, Request
from medray.config.backends import BackendConfig, LimitsConfig, PriceConfig
from medray.errors import InputError, RunFailedError

ELSEWHERE = {"base_url": "https://api.example.com/v1", "model": "m"}


def request(key: str = "a", text: str = "text", max_tokens: int = 10) -> Request:
    return Request(
        key=key, messages=(Message(role="user", content=text),), holds="records", max_tokens=max_tokens
    )


def test_no_window_of_a_minute_has_more_than_the_limits() -> None:
    now = 0.0
    pace = Pace(LimitsConfig(requests_per_minute=5, tokens_per_minute=300), lambda: now)
    sent: list[tuple[float, int]] = []
    draw = random.Random(1)
    for _ in range(200):
        tokens = draw.randint(1, 120)
        while (delay := pace.delay(tokens)) > 0:
            now += delay
        sent.append((now, tokens))
        now += draw.random()
    for begin, _ in sent:
        window = [tokens for at, tokens in sent if begin <= at < begin + 60.0]
        assert len(window) <= 5
        assert sum(window) <= 300
    assert now < 200 * 60 / 3  # about as fast as the limits allow


def test_a_request_above_the_limit_is_sent_alone() -> None:
    now = 0.0
    pace = Pace(LimitsConfig(tokens_per_minute=10), lambda: now)
    assert pace.delay(1000) == 0
    assert pace.delay(1) == 60.0
    now = 60.0
    assert pace.delay(1) == 0


def test_waits_double_up_to_a_limit_with_the_same_jitter_again() -> None:
    limits = LimitsConfig(first_wait_seconds=1.0, longest_wait_seconds=8.0)
    waits = [retry_wait(limits, 0, "a", attempt) for attempt in range(1, 7)]
    for wait, longest in zip(waits, (1, 2, 4, 8, 8, 8), strict=True):
        assert longest / 2 <= wait <= longest
    assert waits == [retry_wait(limits, 0, "a", attempt) for attempt in range(1, 7)]
    assert waits != [retry_wait(limits, 1, "a", attempt) for attempt in range(1, 7)]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("Mon, 30 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, lambda: datetime(2026, 11, 30, 12, tzinfo=UTC)) == seconds


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://[::1]:80/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://0.0.0.0:8000/v1", False),
        ("http://10.0.0.5/v1", False),
        ("http://localhost.example.com/v1", False),
        ("http://127.0.0.1.example.com/v1", False),
        ("https://api.example.com/v1", False),
        ("http://2130706433/v1", False),
    ],
)
def test_this_machine_is_a_loopback_address(url: str, here: bool) -> None:
    assert wall.is_on_this_machine(url) is here


def test_kinds_are_refused_with_their_counts() -> None:
    section = BackendConfig.model_validate(ELSEWHERE)
    wall.check_kinds(section, {"synthetic": 3}, "judges[0]")
    with pytest.raises(InputError, match=r"7 of 10 requests contain text of records, and api\.example\.com"):
        wall.check_kinds(section, {"records": 7, "synthetic": 3}, "judges[0]")
    allowed = BackendConfig.model_validate(ELSEWHERE | {"may_receive": "records"})
    wall.check_kinds(allowed, {"records": 7}, "judges[0]")


def test_an_estimate_counts_prompts_and_limits() -> None:
    price = PriceConfig(prompt_per_million=10.0, completion_per_million=100.0)
    requests = [request(str(number), "x" * 396, 1000) for number in range(10)]
    found = estimate(requests, price)
    assert (found.requests, found.prompt_tokens, found.completion_tokens) == (10, 1030, 10_000)
    assert found.cost == found.most_cost == pytest.approx((1030 * 10 + 10_000 * 100) / 1e6)
    measured = estimate(requests, price, completion_tokens=50.0)
    assert measured.completion_tokens == 500
    assert measured.cost < measured.most_cost == found.most_cost


@pytest.mark.parametrize("text", ["plain English text", "Ärztin 🩺 病人", "\\times **a**", ""])
def test_the_bound_of_a_prompt_is_never_below_its_estimate_or_its_bytes(text: str) -> None:
    assert most_prompt_tokens(request(text=text)) > max(prompt_tokens(request(text=text)), len(text.encode()))


def test_a_budget_counts_reservations_and_what_was_spent_before() -> None:
    budget = Budget(10.0, spent=4.0)
    assert budget.reserve(5.0)
    assert not budget.reserve(2.0)
    budget.settle(5.0, 1.0)
    assert budget.spent == 5.0
    assert budget.reserve(5.0)
    assert Budget(None).reserve(1e12)


def replay(folder: Path, *lines: Any) -> list[Reply | Failure]:
    file = folder / "replies.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    section = BackendConfig(type="replay", file=str(file))
    return list(build(section, "judge").answers([request("a"), request("b")]))


def test_recorded_replies_are_found_by_key_in_any_order(tmp_path: Path) -> None:
    own = Reply(key="b", text="B\n🩺", finish_reason="stop", model="m", prompt_tokens=2).to_json()
    body = {"choices": [{"message": {"content": "A"}, "finish_reason": "length"}], "model": "gpt"}
    batch = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
    a, b = replay(tmp_path, own, batch, own)
    assert isinstance(a, Reply)
    assert isinstance(b, Reply)
    assert (a.text, a.finish_reason, b.text, b.prompt_tokens) == ("A", "length", "B\n🩺", 2)


def test_a_key_without_a_recorded_reply_is_a_failure(tmp_path: Path) -> None:
    failed = {"custom_id": "a", "response": {"status_code": 500, "body": {}}, "error": None}
    a, b = replay(tmp_path, failed)
    assert isinstance(a, Failure)
    assert isinstance(b, Failure)
    assert a.kind == b.kind == "missing"


@pytest.mark.parametrize(
    "lines", [[{"key": "a"}], [5], [{"key": "a", "text": "x"}, {"key": "a", "text": "y"}]]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, lines: list[Any]) -> None:
    with pytest.raises(InputError, match="line"):
        replay(tmp_path, *lines)


def test_a_function_answers_in_batches_and_its_error_quotes_nothing() -> None:
    sizes = []

    def answer(batch: Any) -> list[str]:
        sizes.append(len(batch))
        return [each.key.upper() for each in batch]

    backend = FunctionBackend("local", answer, batch_size=2)
    found = list(backend.answers(request(key) for key in "abc"))
    assert [each.text for each in found if isinstance(each, Reply)] == ["A", "B", "C"]
    assert sizes == [2, 1]

    def broken(batch: Any) -> list[str]:
        raise ValueError(batch[0].messages[0].content)

    with pytest.raises(RunFailedError, match="local failed with ValueError") as error:
        list(FunctionBackend("local", broken).answers([request(text="secret")]))
    assert "secret" not in str(error.value)


def test_build_names_what_it_cannot_offer() -> None:
    with pytest.raises(InputError, match="no such rule"):
        build(BackendConfig(type="rule", rule="x"), "judge", rules={"y": lambda request: ""})
    with pytest.raises(InputError, match="a local model cannot answer here"):
        build(BackendConfig(type="local", model="m"), "judge")
