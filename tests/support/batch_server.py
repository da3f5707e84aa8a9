"""A server of the OpenAI Batch interface in the test's own process, with faults on demand and a bill."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from chat_server import completion
from http_thread import running


@dataclass
class BatchState:
    """The behaviour of the server. A test changes it while the server runs.

    faults: by route (`upload`, `create`, `retrieve`, `list`, `content`), an HTTP status, `cut` (no answer, but the work is
    done) or `half` (half of the body), for the next calls. looks: times that a batch is asked for before it is over. end: its
    last status. answer: the output line, the error line or nothing for a request. shuffle: whether lines come in another
    order, each twice. calls: by route. bill: completion tokens of created batches.
    """

    faults: dict[str, list[int | str]] = field(default_factory=dict)
    looks: int = 1
    end: str = "completed"
    answer: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda line: good(line)
    shuffle: bool = True
    extra: bytes = b""
    calls: Counter[str] = field(default_factory=Counter)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    bill: int = 0

    @property
    def inputs(self) -> list[list[dict[str, Any]]]:
        """Return the requests of every created batch."""
        return [_lines(self.files[batch["input_file_id"]]) for batch in self.batches.values()]


def good(line: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """Return the output line of a request that is answered."""
    text = f"echo {line['body']['messages'][-1]['content']}"
    body = completion(line["body"], text, finish_reason)
    return {
        "id": "r",
        "custom_id": line["custom_id"],
        "response": {"status_code": 200, "request_id": "q", "body": body},
        "error": None,
    }


def bad(line: dict[str, Any], status: int) -> dict[str, Any]:
    """Return the error line of a request that failed."""
    body = {"error": {"message": "secret text of the prompt", "code": "some_code"}}
    return {
        "id": "r",
        "custom_id": line["custom_id"],
        "response": {"status_code": status, "request_id": "q", "body": body},
        "error": {"code": "some_code", "message": "secret text of the prompt"},
    }


def _lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def _application(state: BatchState) -> web.Application:
    def fault(route: str) -> int | str | None:
        state.calls[route] += 1
        waiting = state.faults.get(route)
        return waiting.pop(0) if waiting else None

    def answered(request: web.Request, found: Any, how: int | str | None) -> web.StreamResponse:
        if how == "cut":
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(found)

    async def upload(request: web.Request) -> web.StreamResponse:
        how = fault("upload")
        form = await request.post()
        if isinstance(how, int):
            return web.Response(status=how)
        assert form["purpose"] == "batch"
        file: Any = form["file"]
        name = f"file-{len(state.files)}"
        state.files[name] = file.file.read()
        return answered(request, {"id": name, "object": "file"}, how)

    async def create(request: web.Request) -> web.StreamResponse:
        how = fault("create")
        asked = await request.json()
        if isinstance(how, int):
            return web.Response(status=how)
        assert asked["endpoint"] == "/v1/chat/completions"
        name = f"batch-{len(state.batches)}"
        batch = {"id": name, "object": "batch", "status": "in_progress", "looks": state.looks, **asked}
        state.batches[name] = batch
        _work(state, batch)
        return answered(request, batch, how)

    async def retrieve(request: web.Request) -> web.StreamResponse:
        how = fault("retrieve")
        if isinstance(how, int):
            return web.Response(status=how)
        batch = state.batches[request.match_info["name"]]
        batch["looks"] -= 1
        over = batch["looks"] < 0
        shown = {**batch, "status": state.end if over else "in_progress"}
        if not over:
            shown |= {"output_file_id": None, "error_file_id": None}
        return answered(request, shown, how)

    async def listed(request: web.Request) -> web.StreamResponse:
        how = fault("list")
        if isinstance(how, int):
            return web.Response(status=how)
        return web.json_response({"object": "list", "data": list(state.batches.values()), "has_more": False})

    async def content(request: web.Request) -> web.StreamResponse:
        how = fault("content")
        if isinstance(how, int):
            return web.Response(status=how)
        data = state.files[request.match_info["name"]]
        if how != "half":
            return web.Response(body=data, content_type="application/octet-stream")
        stream = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await stream.prepare(request)
        await stream.write(data[: len(data) // 2])
        assert request.transport is not None
        request.transport.abort()
        return stream

    application = web.Application(client_max_size=1 << 28)
    application.router.add_post("/v1/files", upload)
    application.router.add_get("/v1/files/{name}/content", content)
    application.router.add_post("/v1/batches", create)
    application.router.add_get("/v1/batches", listed)
    application.router.add_get("/v1/batches/{name}", retrieve)
    return application


def _work(state: BatchState, batch: dict[str, Any]) -> None:
    """Write the output and error files of a batch."""
    found = [each for line in _lines(state.files[batch["input_file_id"]]) if (each := state.answer(line))]
    if state.shuffle:
        found = found * 2
        random.Random(0).shuffle(found)
    output = [each for each in found if each["response"]["status_code"] == 200]
    errors = [each for each in found if each["response"]["status_code"] != 200]
    state.bill += sum(each["response"]["body"]["usage"]["completion_tokens"] for each in output) // (
        2 if state.shuffle else 1
    )
    for kind, lines in (("output", output), ("error", errors)):
        batch[f"{kind}_file_id"] = None
        if lines:
            batch[f"{kind}_file_id"] = f"{batch['id']}-{kind}"
            data = b"".join(json.dumps(each).encode() + b"\n" for each in lines)
            state.files[f"{batch['id']}-{kind}"] = data + state.extra
    counts = {"total": len(found), "completed": len(output), "failed": len(errors)}
    batch["request_counts"] = counts


@contextmanager
def batch_server(state: BatchState) -> Iterator[str]:
    """Yield the base URL of a server that works as `state` says."""
    with running(_application(state)) as url:
        yield f"{url}/v1"
