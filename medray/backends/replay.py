"""Answers from a file of recorded replies, by key: for tests, and to repeat a run without its servers.

A line is a reply as `Reply.to_json` gives it, or a line of a batch output file (`custom_id`, `response`). The order of the
lines does not matter. A repeated key must repeat its text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medray import storage
from medray.backends.chat_client import SendError, parse_reply
from medray.backends.protocol import Failure, Reply, Request
from medray.backends.usage import Usage
from medray.config.backends import BackendConfig
from medray.errors import InputError

FILE_BYTES = 4 << 30
_FIX = "use a file of replies that medray wrote, or a batch output file"


class Replay:
    """A backend that answers from a file. Raises InputError for a file that is missing or contains other lines."""

    def __init__(self, section: BackendConfig, where: str) -> None:
        self.usage = Usage()
        self.name = f"replies in {Path(str(section.file)).name}"
        self._replies = read_replies(Path(str(section.file)), section, where)

    def answers(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """Yield the recorded replies in the order of the requests."""
        for request in requests:
            answer: Reply | Failure = self._replies.get(request.key) or Failure(
                key=request.key, kind="missing", message="the file has no reply for this key"
            )
            self.usage.count(answer)
            yield answer


def read_replies(file: Path, section: BackendConfig, where: str) -> dict[str, Reply]:
    """Return the replies in a JSON lines file by key. Failed lines of a batch file are left out."""
    found: dict[str, Reply] = {}
    try:
        with storage.open_bounded(file, FILE_BYTES, fix=_FIX) as (stream, _):
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                reply = _reply(storage.parse_json(line, f"{file}, line {number}", fix=_FIX), section)
                if reply is None:
                    raise InputError("is not a reply", file=f"{file}, line {number}", fix=_FIX)
                if isinstance(reply, str):
                    continue
                if found.setdefault(reply.key, reply).text != reply.text:
                    raise InputError(
                        "repeats a key with another text",
                        file=f"{file}, line {number}",
                        fix="remove one of the lines",
                    )
    except OSError as error:
        raise InputError(
            f"cannot be read ({storage.summary(error)})",
            file=file,
            key=f"{where}.file",
            fix="check the path",
        ) from None
    return found


def _reply(line: Any, section: BackendConfig) -> Reply | str | None:
    """Return the reply of a line; None if it is neither form, and a reason if the batch line is a failure."""
    if not isinstance(line, dict):
        return None
    if isinstance(line.get("custom_id"), str):
        response = line.get("response")
        if not isinstance(response, dict) or response.get("status_code") != 200 or line.get("error"):
            return "failed"
        try:
            return parse_reply(section, line["custom_id"], response.get("body"))
        except SendError as error:
            return error.message
    if not isinstance(line.get("key"), str) or not isinstance(line.get("text"), str):
        return None
    reason = line.get("finish_reason", "stop")
    counts = {
        name: line[name]
        for name in ("prompt_tokens", "completion_tokens")
        if isinstance(line.get(name), int) and not isinstance(line.get(name), bool)
    }
    return Reply(
        key=line["key"],
        text=line["text"],
        finish_reason=reason if isinstance(reason, str) else "unknown",
        model=line["model"] if isinstance(line.get("model"), str) else "replay",
        **counts,
    )
