"""The routes of a served model over a tiny model, without Ray: answers, streams, and requests that are refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hostile
import pytest
import tiny
from starlette.testclient import TestClient
from tiny_answerer import tiny_answerer

from medray.data.records import Message
from medray.evaluate.asking import Answerer
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer
from medray.evaluate.serve.app import application
from medray.evaluate.serve.limits import Limits
from medray.evaluate.serve.model import ServedModel
from medray.evaluate.serve.question import predict_question
from medray.evaluate.serve.refusal import RefusedError
from medray.evaluate.serve.token import digest

LIMITS = Limits(body_bytes=200_000, answer_tokens=64, batch=4, body_seconds=0.5)
TOKEN = "a-token-of-the-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}
CHAT, PREDICT = hostile.CHAT, hostile.PREDICT


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return tiny_answerer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def client(answerer: Answerer) -> Iterator[TestClient]:
    model = ServedModel("notes", answerer, LIMITS)
    with TestClient(application(model, digest(TOKEN)), headers=BEARER) as found:
        yield found
    model.close()


def expected(answerer: Answerer, text: str, **decoding: Any) -> str:
    ids = answerer.prompt_ids([Message("user", text)])
    [answer] = answerer.answers([ids], Decoding(**{"max_new_tokens": 9} | decoding))
    return answer.text


def chat(client: TestClient, text: str, **changes: Any) -> Any:
    body = {"model": "notes", "messages": [{"role": "user", "content": text}]} | changes
    return client.post(CHAT, json=body)


def events(response: Any) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_answers_are_those_of_the_model_whole_and_in_pieces(client: TestClient, answerer: Answerer) -> None:
    text = tiny.rows(1)[0]["input"]
    wanted = expected(answerer, text)
    found = chat(client, text).json()
    assert found["choices"][0]["message"]["content"] == wanted
    assert found["id"].startswith("chatcmpl-")
    usage = found["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] == len(answerer.prompt_ids([Message("user", text)]))
    *pieces, last, numbers = events(chat(client, text, stream=True, stream_options={"include_usage": True}))
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in pieces) == wanted
    assert len(pieces) > 2
    assert last["choices"][0]["finish_reason"] == found["choices"][0]["finish_reason"]
    assert numbers["usage"] == usage
    assert not numbers["choices"]
    predicted = client.post(PREDICT, json={"input": text}).json()
    assert (predicted["prediction"], predicted["usage"]) == (wanted, usage)
    parts = [{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}]
    same = client.post(
        CHAT, json={"model": "notes", "messages": [{"role": "user", "content": parts}], "n": 1}
    )
    assert same.json()["choices"][0]["message"]["content"] == wanted


def test_requests_at_the_same_time_share_batches_and_get_their_own_answers(
    client: TestClient, answerer: Answerer
) -> None:
    texts = [row["input"] for row in tiny.rows(12, seed=3)]
    limits = [3 + at % 5 for at in range(len(texts))]

    def ask(at: int) -> str:
        response = chat(client, texts[at], max_tokens=limits[at], stream=at % 2 == 0)
        if at % 2:
            return str(response.json()["choices"][0]["message"]["content"])
        return "".join(each["choices"][0]["delta"].get("content", "") for each in events(response))

    with ThreadPoolExecutor(len(texts)) as pool:
        found = list(pool.map(ask, range(len(texts))))
    assert found == [
        expected(answerer, text, max_new_tokens=limit) for text, limit in zip(texts, limits, strict=True)
    ]
    health = client.get("/health").json()
    assert 1 < health["largest_batch"] <= LIMITS.batch


def test_a_model_of_conversations_takes_earlier_turns_and_a_system_message(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    talking = tiny_answerer(tmp_path_factory.mktemp("talking"), prompted=False)
    turns = [("system", "be brief"), ("user", "fever"), ("assistant", "rash"), ("user", "dose daily")]
    model = ServedModel("notes", talking, LIMITS)
    with TestClient(application(model, None), base_url="http://localhost") as client:
        for first in (0, 1, 3):
            said: list[Any] = [Message(role, text) for role, text in turns[first:]]  # type: ignore[arg-type]
            [wanted] = talking.answers([talking.prompt_ids(said)], Decoding(max_new_tokens=6))
            body = {"messages": [{"role": role, "content": text} for role, text in turns[first:]]}
            found = client.post(PREDICT, json=body | {"max_new_tokens": 6}).json()
            assert (found["prediction"], found["cut"]) == (wanted.text, False), first
            whole = client.post(CHAT, json=body | {"model": "notes", "max_tokens": 6}).json()
            assert whole["choices"][0]["message"]["content"] == wanted.text
            assert whole["choices"][0]["finish_reason"] == wanted.finish
    model.close()


def test_stop_texts_seeds_and_limits(client: TestClient, answerer: Answerer) -> None:
    text = "fever and cough"
    whole = expected(answerer, text)
    stop = whole[4:7]
    found = chat(client, text, stop=[stop, "never"], max_completion_tokens=9).json()["choices"][0]
    assert found["message"]["content"] == whole[: whole.index(stop)].strip()
    assert found["finish_reason"] == "stop"
    assert chat(client, text, max_tokens=2).json()["choices"][0]["finish_reason"] == "length"

    def sampled(**changes: Any) -> str:
        response = chat(client, text, temperature=1.9, top_p=0.99, **changes)
        return str(response.json()["choices"][0]["message"]["content"])

    assert sampled(seed=5) == sampled(seed=5)
    assert len({sampled(seed=seed) for seed in range(4)} | {sampled(), sampled()}) > 3
    assert sampled(seed=-7) == sampled(seed=-7)
    greedy = chat(
        client, text, temperature=0, top_p=0.4, presence_penalty=0, user="x", logprobs=False, tools=None
    )
    assert greedy.json()["choices"][0]["message"]["content"] == whole


def test_an_input_that_is_too_long_is_cut_only_if_the_request_says_so(
    client: TestClient, answerer: Answerer
) -> None:
    text = "fever " * 150
    assert client.post(PREDICT, json={"input": text}).json()["error"]["code"] == "context_length_exceeded"
    found = client.post(PREDICT, json={"input": text, "cut": True}).json()
    assert found["cut"] is True
    assert found["prediction"] == expected(answerer, text)
    wide = chat(client, "fever", max_tokens=LIMITS.answer_tokens)
    assert wide.status_code == 200


@pytest.mark.parametrize(
    "case", hostile.requests("notes", body_bytes=LIMITS.body_bytes, words=70), ids=lambda case: case.name
)
def test_a_hostile_request_is_refused_in_the_form_of_openai(
    case: hostile.Hostile, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="medray"):
        response = client.request(
            case.method,
            case.path,
            content=case.body,
            headers={"content-type": "application/json"} | dict(case.headers),
        )
    assert response.status_code == case.status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert case.says in error["message"]
    assert hostile.MARK not in response.text
    assert len(response.content) < 1000
    assert "\x1b" not in response.text
    assert not caplog.records
    assert response.headers["x-medray-request-id"].startswith("req-")


def test_the_token_is_wanted_everywhere_but_at_health(client: TestClient) -> None:
    for sent in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer " + "x" * 10_000, TOKEN):
        refused = client.get("/v1/models", headers={"authorization": sent})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert client.get("/nowhere", headers={"authorization": ""}).status_code == 401
    assert client.get("/health", headers={"authorization": ""}).json()["status"] == "ok"
    listed = client.get("/v1/models").json()
    assert [one["id"] for one in listed["data"]] == ["notes"]
    assert client.get("/v1/models/notes").json() == listed["data"][0]
    assert client.get("/v1/models/other").status_code == 404


def test_without_a_token_only_names_of_this_machine_are_answered(answerer: Answerer) -> None:
    model = ServedModel("notes", answerer, LIMITS)
    with TestClient(application(model, None)) as client:
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
            assert client.get("/v1/models", headers={"host": host}).status_code == 200, host
        for host in ("attacker.example", "attacker.example:8000", "", "127.0.0.1.attacker.example"):
            assert client.get("/v1/models", headers={"host": host}).status_code == 403, host
    model.close()


def called(path: str, receive: Any, send: Any) -> tuple[Any, Any, Any]:
    """Return the arguments of a call of the application, for what a test client cannot do."""
    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", BEARER["authorization"].encode()),
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
    }
    return scope, receive, send


def test_a_slow_body_is_refused(client: TestClient) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0.2)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    app: Any = client.app
    asyncio.run(app(*called(PREDICT, receive, send)))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_answer_for_a_client_that_has_gone_is_given_up(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(_: Any, __: Any, rows: Any, *___: Any, **____: Any) -> Any:
        begun.set()
        while not rows[0].cancelled:
            time.sleep(0.001)
        ended.set()
        return [Answer(text="", tokens=1, finish="length")]

    monkeypatch.setattr("medray.evaluate.serve.model.write", endless)
    body = hostile.chat("notes", stream=stream)

    async def ask_and_go() -> None:
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if given:
                return given.pop()
            return await asyncio.Event().wait()

        async def send(_: Any) -> None:
            pass

        app: Any = client.app
        task = asyncio.ensure_future(app(*called(CHAT, receive, send)))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(ask_and_go())
    assert ended.wait(20)


def test_an_error_of_ours_is_answered_and_its_text_is_in_no_log(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("zorblatt is ill")

    monkeypatch.setattr("medray.evaluate.serve.model.write", broken)
    response = chat(client, "fever")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    streamed = chat(client, "fever", stream=True).text.split("\n\n")
    assert "internal_error" in streamed[1]
    assert "zorblatt" not in response.text + "".join(streamed) + caplog.text
    assert "RuntimeError at" in caplog.text
    monkeypatch.undo()
    assert chat(client, "fever").status_code == 200


def test_a_seed_that_is_too_large_is_told_its_bound() -> None:
    with pytest.raises(RefusedError, match=r"2\*\*63 - 1"):
        predict_question({"input": "a", "seed": 2**70})
