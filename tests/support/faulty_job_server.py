"""A small job server for faults that a real head does not produce on demand: a cut log, errors, silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from http_thread import running

ID = "medray-a-1"


@dataclass
class State:
    """The answers of the server. A test changes them while the server runs.

    log: of the job. ends_after: characters after which a stream of the log is closed, one entry for each stream; then
    streams stay open and silent. answers: to GET /api/jobs/ID, in order, the last one repeated: a status, an HTTP status,
    or None for a connection that is cut. page: the page that a proxy would show instead of the version.
    """

    log: str = ""
    ends_after: list[int] = field(default_factory=list)
    answers: list[str | int | None] = field(default_factory=lambda: ["SUCCEEDED"])
    exit_code: int | None = 0
    message: str = ""
    page: str = ""
    streams: int = 0
    asked: int = 0
    on_ask: Callable[[], None] = lambda: None

    def job(self, status: str) -> dict[str, Any]:
        over = status not in ("PENDING", "RUNNING")
        return {
            "type": "SUBMISSION",
            "submission_id": ID,
            "status": status,
            "entrypoint": "python -m medray train config.yaml",
            "message": self.message,
            "start_time": 1000,
            "end_time": 2000 if over else None,
            "metadata": {"medray_run": "a", "medray_storage": "/runs", "medray_verb": "train"},
            "driver_exit_code": self.exit_code if over else None,
        }


def _application(state: State) -> web.Application:
    async def version(request: web.Request) -> web.Response:
        if state.page:
            return web.Response(text=state.page, content_type="text/html")
        return web.json_response(
            {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}
        )

    async def job(request: web.Request) -> web.Response:
        state.asked += 1
        state.on_ask()
        answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(answer, int):
            return web.Response(status=answer, text="Traceback\nsome error")
        return web.json_response(state.job(answer))

    async def jobs(request: web.Request) -> web.Response:
        return web.json_response(
            [state.job(str(state.answers[-1])), {**state.job("RUNNING"), "metadata": {}}]
        )

    async def log(request: web.Request) -> web.Response:
        return web.json_response({"logs": state.log})

    async def tail(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        state.streams += 1
        if state.ends_after:
            for start in range(0, end := state.ends_after.pop(0), 7):
                await socket.send_str(state.log[start : min(start + 7, end)])
            await socket.close()
        else:
            await asyncio.sleep(3600)
        return socket

    application = web.Application()
    application.router.add_get("/api/version", version)
    application.router.add_get("/api/jobs/", jobs)
    application.router.add_get(f"/api/jobs/{ID}", job)
    application.router.add_get(f"/api/jobs/{ID}/logs", log)
    application.router.add_get(f"/api/jobs/{ID}/logs/tail", tail)
    return application


@contextmanager
def faulty_job_server(state: State) -> Iterator[str]:
    """URL of a server that answers as `state` says, in a thread of this process."""
    with running(_application(state)) as url:
        yield url
