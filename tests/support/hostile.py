"""Requests that a server must refuse, each with the status that says so. None of them may end or block the server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHAT, PREDICT = "/v1/chat/completions", "/predict"
MARK = "zorblatt"  # in the text of every hostile request; no log may contain it


@dataclass(frozen=True, kw_only=True, slots=True)
class Hostile:
    """One request. status: of the response that refuses it. says: what the message of the error contains."""

    name: str
    body: bytes
    status: int = 400
    says: str = ""
    path: str = CHAT
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


def chat(model: str, /, **changes: Any) -> bytes:
    """Return the body of a chat request with changes."""
    tree = {"model": model, "messages": [{"role": "user", "content": f"{MARK} fever"}], "max_tokens": 4}
    return json.dumps(tree | changes).encode()


def message(**changes: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": MARK} | changes]


def requests(model: str, *, body_bytes: int, words: int) -> list[Hostile]:
    """Return the requests, for a model that reads single inputs.

    body_bytes: the server's limit of bodies, at least 200,000. words: number of words that are too many tokens.
    """

    def one(name: str, says: str, status: int = 400, **changes: Any) -> Hostile:
        return Hostile(name=name, body=chat(model, **changes), says=says, status=status)

    def raw(name: str, body: bytes, says: str, status: int = 400, **more: Any) -> Hostile:
        return Hostile(name=name, body=body, says=says, status=status, **more)

    whole = chat(model)
    return [
        raw("huge body", b'{"model": "' + MARK.encode() * (body_bytes // 8) + b'"}' * 9, "bytes", 413),
        raw("deep JSON", b"[" * 50_000, "not JSON"),
        raw("deep object", b'{"a":' * 5000 + b"1" + b"}" * 5000, "not JSON"),
        raw("not JSON", MARK.encode(), "not JSON"),
        raw("cut JSON", whole[:-5], "not JSON"),
        raw("NaN", whole[:-1] + b', "temperature": NaN}', "not JSON"),
        raw("invalid UTF-8", whole.replace(MARK.encode(), b"\xff\xfe"), "not JSON"),
        raw("half a surrogate", whole.replace(MARK.encode(), b"\\ud800"), "not JSON"),
        raw("zero byte", b"\x00" * 100, "not JSON"),
        raw("a list", b"[1, 2]", "JSON object"),
        raw("a number", b"17", "JSON object"),
        raw("empty", b"", "empty"),
        raw(
            "form", b"messages=" + MARK.encode(), "Content-Type", 415, headers={"content-type": "text/plain"}
        ),
        raw("compressed", whole, "compressed", 415, headers={"content-encoding": "gzip"}),
        one("temperature as a text", "temperature", temperature="0.5"),
        one("temperature too high", "temperature", temperature=1e300),
        one("temperature true", "temperature", temperature=True),
        one("top_p zero", "top_p", temperature=1, top_p=0),
        one("top_p without temperature", "top_p", top_p=0.5),
        one("max_tokens negative", "max_tokens", max_tokens=-1),
        one("max_tokens a fraction", "max_tokens", max_tokens=1.5),
        one("max_tokens too large", "at most", max_tokens=10**18),
        one("max_tokens huge", "max_tokens", max_tokens=10**40),
        one("two limits", "max_completion_tokens", max_completion_tokens=3),
        one("seed a list", "seed", seed=[1]),
        one("stop empty", "stop", stop=[""]),
        one("stop many", "stop", stop=["a"] * 1000),
        one("stop long", "stop", stop="a" * 10_000),
        one("stream a number", "stream", stream=1),
        one("stream_options without stream", "stream_options", stream_options={"include_usage": True}),
        one("n", "n:", n=5),
        one("tools", "tools", tools=[{"type": "function"}]),
        one("logprobs", "logprobs", logprobs=True),
        one("logit_bias", "logit_bias", logit_bias={"5": 100}),
        one("response_format", "response_format", response_format={"type": "json_object"}),
        one("penalty", "frequency_penalty", frequency_penalty=1.5),
        one("unknown key", "did you mean temperature", temprature=0.2),
        one("unknown key with controls", "unknown key", **{"\x1b[2J" + "x" * 500: 1}),
        one("no messages", "messages", messages=[]),
        one("messages a text", "messages", messages=MARK),
        one("many messages", "at most", messages=message() * 3000),
        one("role of a tool", "role", messages=message(role="tool")),
        one("content a number", "content", messages=message(content=5)),
        one("content empty", "empty", messages=message(content=" \n")),
        one(
            "an image", "images", messages=message(content=[{"type": "image_url", "image_url": {"url": "x"}}])
        ),
        one("tool calls", "tool_calls", messages=message(tool_calls=[{"id": "x"}])),
        one(
            "the assistant last", "alternation", messages=[*message(), {"role": "assistant", "content": "x"}]
        ),
        one(
            "several turns",
            "single inputs",
            messages=[*message(), {"role": "assistant", "content": "x"}, *message()],
        ),
        one("too many characters", "too long", messages=message(content=MARK * 20_000)),
        one("too many tokens", "too long", messages=message(content="fever " * words)),
        one("other model", "no such model", 404, model=MARK),
        one("model a number", "model", model=5),
        raw("input and messages", b'{"input": "x", "messages": []}', "either", path=PREDICT),
        raw("input empty", b'{"input": ""}', "empty", path=PREDICT),
        raw("unknown task", b'{"input": "x", "task": "zorblatt"}', "task", path=PREDICT),
        raw("wrong method", whole, "method", 405, method="PUT"),
        raw("wrong path", whole, "no such path", 404, path=f"/v1/{MARK}?text={MARK}"),
        raw(
            "a host that is no URL",
            whole,
            "no such path",
            404,
            path="/predict/",
            headers={"host": "[" + MARK},
        ),
        raw("path outside", whole, "no such path", 404, path="/v1/../../etc/passwd"),
    ]
