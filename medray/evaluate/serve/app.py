"""The HTTP routes of a served model, as an ASGI application. It knows nothing of Ray.

No text of a request appears in a log: requests are not logged, and of an unexpected error only its type and its line of
code. The order of the checks: token, path, content type, size of the body, keys and values, numbers of tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medray.evaluate.generate import Answer
from medray.evaluate.serve.batcher import Job
from medray.evaluate.serve.limits import Limits
from medray.evaluate.serve.model import Prompt, ServedModel
from medray.evaluate.serve.question import Question, chat_question, parse, predict_question
from medray.evaluate.serve.refusal import RefusedError, wrong
from medray.evaluate.serve.responses import DONE, Completion, event, prediction
from medray.evaluate.serve.token import allowed, is_loopback

_log = logging.getLogger("medray.serve")
Endpoint = Callable[[Request], Awaitable[Response]]


def application(model: ServedModel, token: str | None) -> ASGIApp:
    """Return the application. token: digest of the bearer token; None: only requests to loopback names are answered."""
    routes = Routes(model)
    app = Starlette(
        routes=[
            Route("/health", routes.health, methods=["GET"]),
            Route("/v1/models", _guarded(routes.models), methods=["GET"]),
            Route("/v1/models/{name:path}", _guarded(routes.model), methods=["GET"]),
            Route("/predict", _guarded(routes.predict), methods=["POST"]),
            Route("/v1/chat/completions", _guarded(routes.chat), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False  # a redirect would repeat the request's Host, which may be any text
    return Guard(app, token)


class Guard:
    """The checks before the routes: the token, or the name of the host. Adds an id to each response.

    Without a token, a web page that a browser of this machine shows could send requests here. A request with
    another host than this machine's comes from such a page, and is refused.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":  # start and end of the application
            await self._app(scope, receive, send)
            return

        begun = False

        async def with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                number = f"req-{secrets.token_hex(8)}".encode()
                message["headers"] = [*message["headers"], (b"x-medray-request-id", number)]
            await send(message)

        app = self._app
        if (refused := self._refused(scope["path"], Headers(scope=scope))) is not None:
            app = _refused(refused)
        try:
            await app(scope, receive, with_id)
        except Exception as error:  # Ray would log its text
            failure = _unexpected(error)
            if not begun:
                await _response(failure)(scope, receive, with_id)

    def _refused(self, path: str, headers: Headers) -> RefusedError | None:
        if self._token is None:
            host = headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if not is_loopback(name.strip("[]")):
                return RefusedError(403, "this server answers only requests to localhost", code="wrong_host")
        elif path != "/health" and not allowed(headers.get("authorization"), self._token):
            return RefusedError(
                401, "send the server's token: Authorization: Bearer TOKEN", code="invalid_api_key"
            )
        return None


class Routes:
    """The endpoints of one model."""

    def __init__(self, model: ServedModel) -> None:
        self._model, self._begun = model, int(time.time())

    async def health(self, _: Request) -> Response:
        """Say that the model is loaded, and what it has to do."""
        return JSONResponse(
            {
                "status": "ok" if self._model.healthy else "broken",
                "model": self._model.name,
                "waiting": self._model.waiting,
                "answered": self._model.answered,
                "largest_batch": self._model.largest_batch,
            },
            status_code=200 if self._model.healthy else 503,
        )

    async def models(self, _: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [self._listed()]})

    async def model(self, request: Request) -> Response:
        """Describe the model."""
        if request.path_params["name"] != self._model.name:
            raise RefusedError(404, "there is no such model here", param="model", code="model_not_found")
        return JSONResponse(self._listed())

    async def predict(self, request: Request) -> Response:
        """Answer one input or conversation."""
        question = predict_question(parse(await body(request, self._model.limits)))
        prompt = await self._model.prompt(question)
        return JSONResponse(prediction(prompt, await self._answer(question, prompt)))

    async def chat(self, request: Request) -> Response:
        """Answer a conversation in the form of OpenAI's API, whole or in pieces."""
        question = chat_question(parse(await body(request, self._model.limits)))
        prompt = await self._model.prompt(question)
        completion = Completion(self._model.name)
        if not question.stream:
            return JSONResponse(completion.whole(prompt, await self._answer(question, prompt)))
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        job = self._model.job(question, prompt, lambda text: _tell(loop, pieces, text))
        answer = self._model.submit(job)  # a full queue is refused before the stream begins
        answer.add_done_callback(lambda _: pieces.put_nowait(None))
        return StreamingResponse(
            self._stream(question, prompt, completion, job, answer, pieces),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    async def _answer(self, question: Question, prompt: Prompt) -> Answer:
        job = self._model.job(question, prompt)
        try:
            return await self._model.submit(job)
        except asyncio.CancelledError:  # the client has gone
            job.cancel()
            raise

    async def _stream(
        self,
        question: Question,
        prompt: Prompt,
        completion: Completion,
        job: Job,
        answer: asyncio.Future[Answer],
        pieces: asyncio.Queue[str | None],
    ) -> AsyncIterator[bytes]:
        try:
            yield completion.piece("", first=True)
            while (text := await pieces.get()) is not None:
                yield completion.piece(text)
            try:
                found = await answer
            except Exception as error:
                yield event(_unexpected(error).body())
                return
            yield completion.piece("", finish=found.finish)
            if question.usage:
                yield completion.usage(prompt, found)
            yield DONE
        finally:
            job.cancel()  # no effect if it is answered

    def _listed(self) -> dict[str, Any]:
        return {"id": self._model.name, "object": "model", "created": self._begun, "owned_by": "medray"}


async def body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request. Raises RefusedError if it is not JSON by its header, too large, or too slow."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(
            415, "send JSON, with the header Content-Type: application/json", code="unsupported_media_type"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(415, "a compressed body is not supported", code="unsupported_media_type")
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or len(stated) > 18 or int(stated) > limits.body_bytes:
        raise _too_large(limits)
    found = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                found += chunk
                if len(found) > limits.body_bytes:
                    raise _too_large(limits)
    except TimeoutError:
        raise RefusedError(
            408, f"the body did not arrive within {limits.body_seconds:g} seconds", code="request_timeout"
        ) from None
    if not found:
        raise wrong("body", "is empty; send a JSON object")
    return bytes(found)


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(413, f"a body of at most {limits.body_bytes} bytes is allowed", code="body_too_large")


def _tell(loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[str | None], text: str) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(pieces.put_nowait, text)


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that answers every failure with JSON and logs no text."""

    @functools.wraps(endpoint)
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RefusedError as refusal:
            return _response(refusal)
        except ClientDisconnect:
            return _response(RefusedError(400, "the client has gone", code="client_gone"))
        except Exception as error:
            return _response(_unexpected(error))

    return guarded


def _unexpected(error: Exception) -> RefusedError:
    """Return the answer to a failure of ours. Its message may contain text of the request, so it is not logged."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}" if last is not None else "unknown line"
    _log.error("a request failed: %s at %s", type(error).__name__, where)
    return RefusedError(500, f"the server failed ({type(error).__name__})", code="internal_error")


def _refused(refusal: RefusedError) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await _response(refusal)(scope, receive, send)

    return answer


def _response(refusal: RefusedError) -> JSONResponse:
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "there is no such path", 405: "this path does not support this method"}
    message = said.get(error.status_code, "the request is wrong")
    response = _response(
        RefusedError(error.status_code, message, code="not_found" if error.status_code == 404 else None)
    )
    response.headers.update(error.headers or {})
    return response
