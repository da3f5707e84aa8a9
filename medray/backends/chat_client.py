"""One request to an OpenAI-compatible server, and its answer: a reply, or an error that says what would help.

The `openai` client sends; its own retries are off. Redirects are not followed, since they could lead text of records to
another machine, and no proxy is used for a server on this machine. Nothing that the server says is shown but short codes: an
error message of a server may quote the prompt. Its answer is untrusted input: bounded in size and time, and checked.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any

from medray import storage
from medray.backends.pace import retry_after
from medray.backends.price import cost
from medray.backends.protocol import FailureKind, Reply, Request
from medray.backends.wall import host_of, is_on_this_machine
from medray.config.backends import BackendConfig
from medray.errors import InputError

REPLY_BYTES = 16 << 20
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_NO_KEY = "none"  # the client wants a key, and would else send OPENAI_API_KEY of the environment
_RETRIED = frozenset({408, 409, 425, 429, 529})
# Codes of a 429 that no waiting helps.
_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


class SendError(Exception):
    """A request that failed once.

    retry: whether sending it again may help. wait: seconds that the server asks for, for all requests. uncertain: whether
    the server may charge for it. stop: an error that makes all further requests useless.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        retry: bool = True,
        wait: float | None = None,
        uncertain: bool = False,
        stop: InputError | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.status = kind, message, status
        self.retry, self.wait, self.uncertain, self.stop = retry and stop is None, wait, uncertain, stop


def api_key(section: BackendConfig, where: str) -> str:
    """Return the API key from the environment variable that the section names. Raises InputError if it is not set."""
    if section.key_env is None:
        return _NO_KEY
    found = os.environ.get(section.key_env, "").strip()
    if not found:
        raise InputError(
            f"the environment variable {section.key_env} is not set",
            key=f"{where}.key_env",
            value=section.key_env,
            fix=f"set {section.key_env} to the API key of this server, or remove key_env for a server without one",
        )
    if not found.isascii() or not found.isprintable() or " " in found:
        raise InputError(
            f"the environment variable {section.key_env} contains characters that no API key has",
            key=f"{where}.key_env",
            value=section.key_env,
            fix=f"set {section.key_env} to the key alone, without quotes or line breaks",
        )
    return found


def check_installed(key: str) -> None:
    """Raise InputError if the openai client is not installed."""
    try:
        import openai  # noqa: F401
    except ImportError:
        raise InputError(
            "answers from a server need the package openai, which is not installed",
            key=key,
            fix="run pip install 'medray[endpoint]'",
        ) from None


def openai_client(section: BackendConfig, where: str) -> Any:
    """Return a client of the section's server without retries, redirects, or settings from the environment."""
    check_installed(f"{where}.type")
    key = api_key(section, where)
    import openai

    url, limits = str(section.base_url), section.limits
    client = openai.OpenAI(
        base_url=url,
        api_key=key,
        max_retries=0,
        timeout=limits.timeout_seconds,
        http_client=openai.DefaultHttpxClient(
            follow_redirects=False,
            trust_env=not is_on_this_machine(url),
            timeout=limits.timeout_seconds,
        ),
    )
    client.organization = client.project = None  # of OPENAI_ORG_ID and OPENAI_PROJECT_ID
    client.admin_api_key = None
    client._custom_headers = {}  # of OPENAI_CUSTOM_HEADERS, which may be secrets of another server
    return client


def body(section: BackendConfig, request: Request) -> dict[str, Any]:
    """Return the JSON body of a request to /chat/completions."""
    found: dict[str, Any] = {
        "model": section.model,
        "messages": [{"role": one.role, "content": one.content} for one in request.messages],
        section.max_tokens_key: request.max_tokens,
        "temperature": request.temperature,
    }
    if request.top_p is not None:
        found["top_p"] = request.top_p
    if request.seed is not None:
        found["seed"] = request.seed
    if request.stop:
        found["stop"] = list(request.stop)
    if request.schema is not None:
        found["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": dict(request.schema), "strict": True},
        }
    found |= section.body
    return {name: value for name, value in found.items() if value is not None}


def parse_reply(section: BackendConfig, key: str, found: Any) -> Reply:
    """Return the reply in the JSON answer of /chat/completions. Raises SendError of the kind malformed."""
    choices = found.get("choices") if isinstance(found, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    refusal = message.get("refusal") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(text, str | None):
        raise SendError("malformed", "the answer has no choices[0].message", uncertain=True)
    reason = choice.get("finish_reason") if isinstance(choice, dict) else None
    usage = found.get("usage")
    prompt, completion = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    priced = section.price is not None and prompt is not None and completion is not None
    return Reply(
        key=key,
        text=text or "",
        finish_reason=reason if isinstance(reason, str) and _CODE.fullmatch(reason) else "unknown",
        model=_short(found.get("model")) or str(section.model),
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=cost(section.price, prompt or 0, completion or 0) if priced else None,
        refusal=refusal if isinstance(refusal, str) and refusal else None,
    )


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else None


def _short(value: object) -> str:
    return value[:200] if isinstance(value, str) and value.isprintable() else ""


class ChatClient:
    """Sends requests to one server. Threads share one."""

    def __init__(self, section: BackendConfig, where: str) -> None:
        self._section, self._where = section, where
        self._client = openai_client(section, where)

    def close(self) -> None:
        self._client.close()

    def send(self, request: Request) -> Reply:
        """Send a request once and return its reply. Raises SendError."""
        try:
            data = self._received(body(self._section, request))
        except Exception as error:
            known = send_error(self._section, self._where, error)
            if known is None:
                raise
            raise known from None
        try:
            found = storage.parse_json(data, "the answer")
        except InputError as error:
            raise SendError("malformed", f"the answer {error.what}", uncertain=True) from None
        return parse_reply(self._section, request.key, found)

    def _received(self, content: dict[str, Any]) -> bytes:
        """Return the bytes of the answer to a request. Raises the client's errors, and SendError for one without an end."""
        limit = self._section.limits.timeout_seconds
        until = time.monotonic() + limit
        parts, size = [], 0
        create = self._client.chat.completions.with_streaming_response.create
        with create(model=content["model"], messages=content["messages"], extra_body=content) as answer:
            for part in answer.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > REPLY_BYTES:
                    raise SendError(
                        "malformed", f"the answer has more than {REPLY_BYTES:,} bytes", uncertain=True
                    )
                if time.monotonic() > until:
                    raise SendError("timeout", f"no whole answer within {limit:g} s", uncertain=True)
        return b"".join(parts)


def send_error(section: BackendConfig, where: str, error: Exception) -> SendError | None:
    """Return what an error of the client means; None for an error that is not the client's."""
    import openai

    if isinstance(error, SendError):
        return error
    if isinstance(error, openai.APIStatusError):
        return _status_error(section, where, error)
    if isinstance(error, openai.APITimeoutError):
        limit = section.limits.timeout_seconds
        return SendError("timeout", f"no answer within {limit:g} s", uncertain=True)
    if isinstance(error, openai.APIConnectionError):
        return _connection_error(error)
    name = type(error).__name__
    if isinstance(error, openai.OpenAIError):
        return SendError("malformed", f"{name} of the client", uncertain=True)
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
        kind: FailureKind = "timeout" if "Timeout" in name else "connection"
        return SendError(kind, f"the connection broke within the answer ({name})", uncertain=True)
    return None


def _status_error(section: BackendConfig, where: str, error: Any) -> SendError:
    """Return what an HTTP status means for the request and for all others."""
    status = int(error.status_code)
    code = next(
        (each for each in (error.code, error.type) if isinstance(each, str) and _CODE.fullmatch(each)), ""
    )
    said = f"the server answered {status}{f' ({code})' if code else ''}"
    wait = retry_after(error.response.headers.get("retry-after"))
    if status == 429 and code not in _SPENT:
        return SendError("rate_limited", said, status=status, wait=wait)
    if status in _RETRIED - {429} or status >= 500:
        return SendError("server", said, status=status, wait=wait)
    if stop := _useless(section, where, status, said):
        return SendError("refused", said, status=status, stop=stop)
    return SendError("refused", said, status=status, retry=False)


def _useless(section: BackendConfig, where: str, status: int, said: str) -> InputError | None:
    """Return the error for a status that every further request would get too."""
    host = host_of(str(section.base_url))
    if status in (401, 403):
        fix = (
            f"set the environment variable {section.key_env} to a key that may use {section.model}"
            if section.key_env
            else "name the environment variable that contains the server's API key as key_env"
        )
        return InputError(
            f"{said}: it accepts no request with this key",
            key=f"{where}.key_env",
            value=section.key_env,
            fix=fix,
        )
    if status == 429:
        return InputError(
            f"{said}: the account has no quota left",
            key=f"{where}.base_url",
            value=host,
            fix="add credit to the account, or use another server",
        )
    if status == 404:
        return InputError(
            f"{said}: it has no model {section.model}, or no /chat/completions at this URL",
            key=f"{where}.base_url",
            value=section.base_url,
            fix="check base_url and model; base_url often ends in /v1",
        )
    if 300 <= status < 400:
        return InputError(
            f"{said}: a redirect to another address, which is not followed",
            key=f"{where}.base_url",
            value=section.base_url,
            fix="set base_url to the final address",
        )
    return None


def _connection_error(error: Exception) -> SendError:
    cause = error.__cause__
    name = type(cause).__name__ if cause is not None else "no connection"
    connected = not name.startswith("Connect")
    return SendError("connection", f"no connection, or it broke ({name})", uncertain=connected)
