"""Tests of the endpoint against a real HTTP server in this process, with faults."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from chat_server import ChatState, Fault, chat_server

from medray.backends.endpoint import Endpoint
from medray.backends.price import Budget, most_cost
from medray.backends.protocol import BudgetSpentError, Failure, Message, Reply, Request
from medray.config.backends import BackendConfig
from medray.errors import InputError, RunFailedError

FAST = {"first_wait_seconds": 0.01, "longest_wait_seconds": 0.02, "timeout_seconds": 5.0}


@pytest.fixture
def state() -> ChatState:
    return ChatState()


@pytest.fixture
def url(state: ChatState) -> Iterator[str]:
    with chat_server(state) as found:
        yield found


def section(url: str, limits: dict[str, Any] | None = None, **keys: Any) -> BackendConfig:
    return BackendConfig.model_validate(
        {"base_url": url, "model": "m", "limits": FAST | (limits or {})} | keys
    )


def request(key: str = "a", *, holds: Any = "synthetic", max_tokens: int = 20) -> Request:
    message = Message(role="user", content=f"text of {key}")
    return Request(key=key, messages=(message,), holds=holds, max_tokens=max_tokens)


def one(endpoint: Endpoint) -> Reply | Failure:
    (found,) = endpoint.answers([request()])
    return found


def test_a_reply_carries_text_counts_cost_and_model(state: ChatState, url: str) -> None:
    price = {"prompt_per_million": 1e6, "completion_per_million": 2e6}
    budget = Budget(1000.0)
    endpoint = Endpoint(section(url, price=price, body={"top_k": 5}), "judge", budget=budget)
    reply = one(endpoint)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason, reply.model) == ("echo text of a", "stop", "m")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cost) == (3, 4, 11.0)
    assert budget.spent == endpoint.usage.cost == 11.0
    assert state.bodies[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "text of a"}],
        "max_tokens": 20,
        "temperature": 0.0,
        "top_k": 5,
    }


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=500), "server"),
        (Fault(status=503), "server"),
        (Fault(status=429, headers={"Retry-After": "0.1"}), "rate_limited"),
        (Fault(cut="before"), "connection"),
        (Fault(cut="inside"), "connection"),
        (Fault(text="{ not json"), "malformed"),
        (Fault(text='{"choices": []}'), "malformed"),
        (Fault(text='{"choices": [{"message": {"content": 5}}]}'), "malformed"),
        (Fault(text="[" * 5000), "malformed"),
    ],
)
def test_a_fault_is_retried_and_counted(state: ChatState, url: str, fault: Fault, reason: str) -> None:
    state.faults = [fault]
    endpoint = Endpoint(section(url), "judge")
    reply = one(endpoint)
    assert isinstance(reply, Reply)
    assert reply.attempts == 2
    assert len(state.bodies) == 2
    assert endpoint.usage.retries == {reason: 1}


def test_a_slow_answer_times_out_and_is_retried(state: ChatState, url: str) -> None:
    state.faults = [Fault(seconds=0.6)]
    endpoint = Endpoint(section(url, {"timeout_seconds": 0.2}), "judge")
    assert isinstance(one(endpoint), Reply)
    assert endpoint.usage.retries == {"timeout": 1}


def test_retry_after_holds_all_requests_back(state: ChatState, url: str) -> None:
    """One request is in flight next to the refused one; all others come after the wait."""
    arrived: list[float] = []

    def fault(body: dict[str, Any]) -> Fault:
        arrived.append(time.monotonic())
        return Fault(status=429, headers={"Retry-After": "0.5"}) if len(arrived) == 1 else Fault(seconds=0.05)

    state.fault_of = fault
    endpoint = Endpoint(section(url, {"concurrency": 2}), "judge")
    assert len(list(endpoint.answers(request(str(number)) for number in range(6)))) == 6
    late = [each - arrived[0] for each in arrived[1:]]
    assert len(late) == 6
    assert sum(each < 0.5 for each in late) <= 1


def test_a_wait_for_tomorrow_ends_the_run(state: ChatState, url: str) -> None:
    state.faults = [Fault(status=429, headers={"Retry-After": "86400"})]
    with pytest.raises(RunFailedError, match="asks to wait 86,400 s"):
        one(Endpoint(section(url), "judge"))


def test_a_refused_request_is_final_and_others_continue(state: ChatState, url: str) -> None:
    state.fault_of = lambda body: Fault(
        status=400 if "text of a" in body["messages"][0]["content"] else 200, code="context_length_exceeded"
    )
    endpoint = Endpoint(section(url), "judge")
    found = {each.key: each for each in endpoint.answers([request("a"), request("b")])}
    failure = found["a"]
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.attempts) == ("refused", 400, 1)
    assert failure.message == "the server answered 400 (context_length_exceeded)"
    assert isinstance(found["b"], Reply)
    assert len(state.bodies) == 2


@pytest.mark.parametrize(
    ("fault", "key", "word"),
    [
        (Fault(status=401), "judge.key_env", "set the environment variable KEY"),
        (Fault(status=403), "judge.key_env", "set the environment variable KEY"),
        (Fault(status=404), "judge.base_url", "base_url often ends in /v1"),
        (Fault(status=429, code="insufficient_quota"), "judge.base_url", "add credit"),
        (Fault(status=307, headers={"Location": "http://192.0.2.1/v1"}), "judge.base_url", "final address"),
    ],
)
def test_what_every_request_would_get_ends_the_run(
    state: ChatState, url: str, fault: Fault, key: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sk-1")
    state.faults = [fault] * 3
    with pytest.raises(InputError) as error:
        list(Endpoint(section(url, {"concurrency": 1}, key_env="KEY"), "judge").answers([request()]))
    assert error.value.key == key
    assert word in str(error.value.fix)
    assert "secret text" not in str(error.value)
    assert len(state.bodies) == 1


def test_a_dead_server_ends_the_run_soon(url: str) -> None:
    dead = section("http://127.0.0.1:9/v1", {"retries": 1, "concurrency": 1})
    with pytest.raises(RunFailedError, match="does not answer"):
        list(Endpoint(dead, "judge").answers(request(str(number)) for number in range(100)))


def test_a_failing_server_ends_the_run_after_five_requests(state: ChatState, url: str) -> None:
    state.fault_of = lambda body: Fault(status=500)
    endpoint = Endpoint(section(url, {"retries": 0, "concurrency": 1}), "judge")
    found: list[Reply | Failure] = []
    with pytest.raises(RunFailedError, match="5 requests in a row"):
        found += endpoint.answers(request(str(number)) for number in range(100))
    assert 5 <= len(state.bodies) <= 7


def test_a_reply_that_was_cut_by_its_limit_says_so(state: ChatState, url: str) -> None:
    state.faults = [Fault(finish_reason="length")]
    reply = one(Endpoint(section(url), "judge"))
    assert isinstance(reply, Reply)
    assert (reply.finish_reason, reply.attempts) == ("length", 1)


def test_answers_come_as_they_arrive_and_not_more_at_once_than_allowed(state: ChatState, url: str) -> None:
    state.fault_of = lambda body: Fault(
        seconds=0.5 if body["messages"][0]["content"] == "text of 0" else 0.01
    )
    endpoint = Endpoint(section(url, {"concurrency": 3}), "judge")
    taken = []

    def requests() -> Iterator[Request]:
        for number in range(12):
            taken.append(threading.current_thread())
            yield request(str(number))

    keys = [each.key for each in endpoint.answers(requests())]
    assert sorted(keys, key=int) == [str(number) for number in range(12)]
    assert keys[-1] == "0"
    assert 2 <= state.most <= 3
    assert set(taken) == {threading.current_thread()}


def test_closing_the_answers_sends_no_more(state: ChatState, url: str) -> None:
    state.fault_of = lambda body: Fault(seconds=0.05)
    endpoint = Endpoint(section(url, {"concurrency": 2}), "judge")
    answers = endpoint.answers(request(str(number)) for number in range(100))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert len(state.bodies) <= 5


def test_text_of_records_reaches_only_this_machine(state: ChatState, url: str) -> None:
    """A name of this machine that is no loopback address counts as elsewhere: nothing is sent, not even a look-up."""
    elsewhere = section(url.replace("127.0.0.1", "example.invalid"))
    endpoint = Endpoint(elsewhere, "judge")
    found = list(endpoint.answers([request("a", holds="records"), request("b", holds="records")]))
    assert [(each.key, each.kind) for each in found if isinstance(each, Failure)] == [
        ("a", "not_allowed"),
        ("b", "not_allowed"),
    ]
    assert endpoint.usage.to_json()["failures"] == {"not_allowed": 2}
    assert endpoint.usage.sent == 0
    assert isinstance(one(Endpoint(section(url), "judge")), Reply)
    local = Endpoint(section(url), "judge")
    assert all(isinstance(each, Reply) for each in local.answers([request(holds="records")]))


def test_the_budget_stops_before_the_request_that_would_exceed_it(state: ChatState, url: str) -> None:
    price = {"prompt_per_million": 0.0, "completion_per_million": 1e6}
    whole = section(url, {"concurrency": 4}, price=price)
    reply_cost = 4.0  # "echo text of N" is four words
    most = most_cost(whole.price, request("0"))
    budget = Budget(most + 5 * reply_cost)
    endpoint = Endpoint(whole, "judge", budget=budget)
    found: list[Reply | Failure] = []
    with pytest.raises(BudgetSpentError, match="raise the budget"):
        found += endpoint.answers(request(str(number)) for number in range(100))
    assert len(found) == len(state.bodies) == 5 + 1
    assert budget.spent == 6 * reply_cost
    assert budget.limit is not None
    assert budget.spent <= budget.limit


def test_a_request_whose_reply_was_lost_counts_against_the_budget(state: ChatState, url: str) -> None:
    state.faults = [Fault(cut="inside")]
    price = {"prompt_per_million": 0.0, "completion_per_million": 1e6}
    budget = Budget(30.0)
    endpoint = Endpoint(section(url, price=price), "judge", budget=budget)
    found = one(endpoint)
    assert isinstance(found, Failure)
    assert found.kind == "budget"
    assert endpoint.usage.uncertain_cost == budget.spent == 20.0


def test_the_key_is_sent_and_shown_nowhere(
    state: ChatState, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    endpoint = Endpoint(section(url, key_env="MY_KEY"), "judge")
    assert isinstance(one(endpoint), Reply)
    assert state.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in caplog.text
    assert "sk-very-secret" not in repr(vars(endpoint))


def test_the_environment_gives_no_key_and_no_proxy(
    state: ChatState, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-someone-else")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: of-another-server")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert isinstance(one(Endpoint(section(url), "judge")), Reply)
    assert "sk-of-someone-else" not in str(state.headers)
    assert "org-1" not in str(state.headers)
    assert "of-another-server" not in str(state.headers)


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match="not installed") as error:
        Endpoint(section("http://127.0.0.1:9/v1"), "judge")
    assert error.value.fix == "run pip install 'medray[endpoint]'"


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(InputError, match="the environment variable NO_KEY is not set"):
        Endpoint(section("http://127.0.0.1:9/v1", key_env="NO_KEY"), "judge")
