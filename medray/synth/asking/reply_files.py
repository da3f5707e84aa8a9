"""Files of requests and replies, in the format of the OpenAI Batch API, for work that is answered elsewhere.

Replies are found by key, whatever their order, and however often they are repeated. Of two different replies to one key,
the one that can be used is taken, else the one that comes first in the order of bytes: the choice does not depend on the
order of the lines.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from xxhash import xxh3_64_intdigest

from medray import storage
from medray.backends.chat_client import SendError, body, parse_reply
from medray.backends.protocol import Failure, FailureKind, Reply, Request
from medray.backends.usage import Usage
from medray.config.backends import BackendConfig
from medray.config.synth import SynthFilesConfig
from medray.errors import InputError
from medray.storage import StoragePath
from medray.synth.asking.steps import Key, parse_key

ENDPOINT = "/v1/chat/completions"
_FIX = "use an output file or an error file of a batch, or replies that medray wrote"
# Whatever a file says about its model is kept; the section only says how a reply is read.
_SECTION = BackendConfig(type="endpoint", base_url="http://127.0.0.1/v1", model="files")


class ReplyFiles:
    """A backend that answers from files. A request without a reply gets a failure of the kind `missing`.

    files: paths. step: the step of custom ids that medray did not write; such an id names a chat. key: of the files, for
    messages. Raises InputError.
    """

    def __init__(self, files: Sequence[Path], step: str | None = None, key: str = "--replies") -> None:
        self.name, self.usage = "files", Usage()
        self._files = [_opened(file, key) for file in files]
        self._paths = list(files)
        self._step = step
        hashes, which, offsets, lengths = array("Q"), array("i"), array("q"), array("i")
        self.lines = 0
        for number, file in enumerate(files):
            offset = 0
            with open(file, "rb") as stream:
                for line_number, line in enumerate(stream, 1):
                    if line.strip():
                        key = self._key(line, f"{file}, line {line_number}")
                        hashes.append(_hash(key))
                        which.append(number)
                        offsets.append(offset)
                        lengths.append(len(line))
                        self.lines += 1
                    offset += len(line)
        found = np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)
        self._order = np.argsort(found, kind="stable")
        self._hashes = found[self._order]
        self._which, self._offsets, self._lengths = which, offsets, lengths

    def _key(self, line: bytes, where: str) -> str:
        try:
            row = orjson.loads(line)
            name = row["custom_id"] if "custom_id" in row else row["key"]
            if not isinstance(name, str):
                raise TypeError
        except (orjson.JSONDecodeError, LookupError, TypeError):
            raise InputError("is not a reply", file=where, fix=_FIX) from None
        if parse_key(name) is not None:
            return name
        if self._step is None:
            raise InputError(
                "the step of a custom_id that medray did not write is not known",
                file=where,
                key="--step",
                fix="name it, such as --step 2u, or put it into the name of the file: …_turn_2u.jsonl",
            )
        return Key(name, self._step, 0).text()

    def answers(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """Yield the recorded replies in the order of the requests."""
        for request in requests:
            answer = self._answer(request.key)
            self.usage.count(answer)
            yield answer

    def _answer(self, key: str) -> Reply | Failure:
        missing = Failure(key=key, kind="missing", message="the files have no reply for this key")
        wanted = np.uint64(_hash(key))
        begin = int(np.searchsorted(self._hashes, wanted, "left"))
        end = int(np.searchsorted(self._hashes, wanted, "right"))
        if begin == end:
            return missing
        lines = {self._line(int(self._order[each])) for each in range(begin, end)}
        found = [(row, line) for line in lines if (row := orjson.loads(line)) and self._is(row, key)]
        answers = [(answer_of(row, key), line) for row, line in found]
        answers.sort(key=lambda pair: (isinstance(pair[0], Failure), pair[1]))
        return answers[0][0] if answers else missing

    def _is(self, row: dict[str, Any], key: str) -> bool:
        name = row.get("custom_id", row.get("key"))
        return name == key or (self._step is not None and key == Key(str(name), self._step, 0).text())

    def _line(self, index: int) -> bytes:
        return os.pread(self._files[self._which[index]], self._lengths[index], self._offsets[index]).strip()

    def close(self) -> None:
        for descriptor in self._files:
            os.close(descriptor)


def answer_of(row: dict[str, Any], key: str) -> Reply | Failure:
    """Return the reply of a line: a line of a batch output or error file, or a reply as medray writes it."""
    if "key" in row and isinstance(row.get("text"), str):
        return Reply(
            key=key,
            text=row["text"],
            finish_reason=str(row.get("finish_reason", "stop")),
            model=str(row.get("model", "")),
            prompt_tokens=row.get("prompt_tokens"),
            completion_tokens=row.get("completion_tokens"),
            refusal=row.get("refusal"),
        )
    response = row.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    if not isinstance(response, dict) or status != 200 or row.get("error"):
        code = status if isinstance(status, int) else None
        # Only the request itself is at fault for these; after 429, 500 or an expired batch it is asked again.
        kind: FailureKind = "refused" if code in (400, 413, 422) else "server"
        return Failure(key=key, kind=kind, message=f"status {code}", status=code)
    try:
        return parse_reply(_SECTION, key, response.get("body"))
    except SendError as error:
        return Failure(key=key, kind="malformed", message=error.message, status=200)


def _hash(key: str) -> int:
    return int(xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")))


def _opened(file: Path, key: str) -> int:
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", file=file, key=key, fix="check the path"
        ) from None


def request_line(request: Request, model: str) -> dict[str, Any]:
    """Return the line of a batch file for a request."""
    section = _SECTION.model_copy(update={"model": model})
    return {"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": body(section, request)}


def write_requests(folder: StoragePath, requests: Iterable[Request], limits: SynthFilesConfig) -> list[str]:
    """Write requests to files within the limits, replacing earlier request files, and return their names."""
    storage.remove_tree(folder)
    storage.make_private(folder)
    names: list[str] = []
    lines: list[bytes] = []
    size, largest = 0, int(limits.most_megabytes * 1_000_000)

    def flush() -> None:
        nonlocal lines, size
        if lines:
            names.append(f"requests-{len(names) + 1:04d}.jsonl")
            storage.write(folder / names[-1], b"".join(lines))
        lines, size = [], 0

    for request in requests:
        line = json.dumps(request_line(request, limits.model), ensure_ascii=False).encode() + b"\n"
        if len(lines) >= limits.most_requests or (lines and size + len(line) > largest):
            flush()
        lines.append(line)
        size += len(line)
    flush()
    return names
