"""A small OpenAI-compatible server in the test's own process, with faults on demand, and a bill of what it answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from http_thread import running


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How the server answers one request.

    status: of HTTP. cut: the connection ends before the answer, or in its middle. seconds: before the answer. text: the
    body instead of a reply. finish_reason: of the reply.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    code: str = ""
    cut: str = ""
    seconds: float = 0.0
    text: str | None = None
    finish_reason: str = "stop"


OK = Fault()


@dataclass
class ChatState:
    """The answers of the server. A test changes them while the server runs.

    faults: of the next requests, in their order; then all is well. reply: the text that answers a request's body. bodies,
    headers: of all requests. bill: completion tokens of the replies that were sent. most: largest number of requests at
    once.
    """

    faults: list[Fault] = field(default_factory=list)
    reply: Callable[[dict[str, Any]], str] = lambda body: f"echo {body['messages'][-1]['content']}"
    fault_of: Callable[[dict[str, Any]], Fault] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bill: int = 0
    inside: int = 0
    most: int = 0


def completion(body: dict[str, Any], text: str, finish_reason: str) -> dict[str, Any]:
    """Return the JSON object of a reply. A token is a word."""
    prompt, answer = sum(len(one["content"].split()) for one in body["messages"]), len(text.split())
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason,
            }
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer},
    }


def _application(state: ChatState) -> web.Application:
    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        state.bodies.append(body)
        state.headers.append(dict(request.headers))
        state.inside += 1
        state.most = max(state.most, state.inside)
        try:
            return await answer(request, body)
        finally:
            state.inside -= 1

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if state.fault_of is not None:
            fault = state.fault_of(body)
        else:
            fault = state.faults.pop(0) if state.faults else OK
        await asyncio.sleep(fault.seconds)
        assert request.transport is not None
        if fault.cut == "before":
            request.transport.abort()
            return web.Response()
        if fault.status != 200:
            error = {
                "error": {"message": "secret text of the prompt", "code": fault.code or None, "type": "x"}
            }
            return web.json_response(error, status=fault.status, headers=fault.headers)
        found = completion(body, state.reply(body), fault.finish_reason)
        text = json.dumps(found) if fault.text is None else fault.text
        if fault.cut == "inside":
            stream = web.StreamResponse(headers={"Content-Length": str(len(text.encode()))})
            await stream.prepare(request)
            await stream.write(text[: len(text) // 2].encode())
            request.transport.abort()
            return stream
        state.bill += found["usage"]["completion_tokens"]
        return web.Response(text=text, content_type="application/json", headers=fault.headers)

    application = web.Application()
    application.router.add_post("/v1/chat/completions", chat)
    return application


@contextmanager
def chat_server(state: ChatState) -> Iterator[str]:
    """Yield the base URL of a server that answers as `state` says."""
    with running(_application(state)) as url:
        yield f"{url}/v1"
