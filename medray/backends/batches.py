"""Answers by the batch interface of OpenAI-compatible servers: submit request files, look at their status, fetch the answers.

Batches cost less and may take a day. Each step is recorded before the next one, so a killed process continues: a part that was
uploaded is searched for at the server before a batch is created for it, and nothing is paid twice.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medray import storage
from medray.backends import wall
from medray.backends.batch_files import (
    MOST_BYTES,
    MOST_LINES,
    BatchFolder,
    Line,
    Part,
    identity,
    line_of,
    split,
)
from medray.backends.chat_client import (
    SendError,
    body,
    check_installed,
    openai_client,
    parse_reply,
    send_error,
)
from medray.backends.pace import retry_wait
from medray.backends.price import Budget, most_cost
from medray.backends.protocol import BudgetSpentError, Failure, Reply, Request
from medray.backends.usage import Usage
from medray.config.backends import BackendConfig
from medray.errors import InputError, RunFailedError

OUTPUT_BYTES = 4 << 30  # of one output file
LINE_BYTES = 16 << 20
WINDOW = "24h"
OVER = frozenset({"completed", "failed", "expired", "cancelled"})
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """Requests that were sent by this call, that were on their way already, and that the budget did not allow."""

    batches: int
    requests: int
    open_before: int
    over_budget: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchStatus:
    """The progress of one batch at the server. status: the server's word, or `not created`."""

    number: int
    batch_id: str
    status: str
    requests: int
    completed: int
    failed: int


class Batches:
    """A backend that answers by batches. It needs a folder of its own, and one process at a time may use it.

    section, where, budget: as in `Endpoint`. most_lines, most_bytes: limits of a request file.
    """

    def __init__(
        self,
        section: BackendConfig,
        where: str,
        folder: Path,
        *,
        budget: Budget | None = None,
        most_lines: int = MOST_LINES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        check_installed(f"{where}.type")
        self.section, self.where = section, where
        self.budget, self.usage = budget or Budget(None), Usage()
        self.name = f"batches of {section.model} at {wall.host_of(str(section.base_url))}"
        self.folder = BatchFolder(folder)
        self.ignored: Counter[str] = (
            Counter()
        )  # lines of output files that no request asked for, or unreadable
        self._limits = most_lines, most_bytes
        self._stop = threading.Event()
        openai_client(section, where).close()  # finds a missing key before any work
        for part in self.folder.open_parts():
            self.budget.hold(part.most_cost)

    def answers(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """Submit what is not on its way, wait for all batches, and yield the answers. See `Backend.answers`.

        Closing the iterator does not cancel the batches: the same requests find them again.
        """
        wanted = list(requests)
        allowed = [request for request in wanted if wall.allows(self.section, request.holds)]
        for request in wanted:
            if said := wall.refusal(self.section, request):
                failure = Failure(key=request.key, kind="not_allowed", message=said)
                self.usage.count(failure)
                yield failure
        submitted = self.submit(allowed)
        left = {self._identity(request): request.key for request in allowed}
        while True:
            for name, answer in self._fetched():
                if left.pop(name, None) is not None:
                    yield answer
            if not left or not self.folder.open_parts():
                break
            self._stop.wait(self.section.poll_seconds)
        if submitted.over_budget:
            raise BudgetSpentError(
                f"{self.name}: {submitted.over_budget:,} requests were not sent, since their highest cost exceeds the budget "
                f"{self.budget.limit:,.4g}\n  Fix: raise the budget and run the command again"
            )

    def submit(self, requests: Iterable[Request]) -> Submitted:
        """Write, upload and start the batches of requests that are not on their way.

        Requests whose highest cost does not fit into the budget are left out. Raises InputError, before anything is sent,
        if a request must not leave this machine.
        """
        wanted = list(requests)
        wall.check_kinds(self.section, Counter(request.holds for request in wanted), self.where)
        known = {name for part in self.folder.open_parts() for name in self.folder.keys(part.number)}
        lines, over, before = [], 0, 0
        for request in wanted:
            content = body(self.section, request)
            name, amount = identity(request.key, content), most_cost(self.section.price, request)
            if name in known:
                before += 1
            elif over or not self.budget.reserve(amount):
                over += 1
            else:
                known.add(name)
                lines.append(Line(name, request.key, line_of(name, content), amount))
        for part in split(lines, *self._limits):
            keys = {line.identity: line.key for line in part}
            self.folder.write_part([line.data for line in part], keys, sum(line.most_cost for line in part))
            self.budget.join(len(part))
        with self._client() as client:
            for each in self.folder.open_parts():
                self._start(client, each)
        return Submitted(
            batches=len(self.folder.open_parts()), requests=len(lines), open_before=before, over_budget=over
        )

    def status(self) -> list[BatchStatus]:
        """Return the progress of all batches that were not fetched yet."""
        found = []
        with self._client() as client:
            for part in self.folder.open_parts():
                batch = self._batch(client, part)
                counts = getattr(batch, "request_counts", None)
                found.append(
                    BatchStatus(
                        number=part.number,
                        batch_id=part.batch_id,
                        status=str(batch.status) if batch is not None else "not created",
                        requests=part.requests,
                        completed=int(getattr(counts, "completed", 0) or 0),
                        failed=int(getattr(counts, "failed", 0) or 0),
                    )
                )
        return found

    def fetch(self) -> Iterator[Reply | Failure]:
        """Yield the answers of batches that are over: every request of such a batch gets a reply or a failure.

        A batch counts as fetched when all of its answers were consumed, so a caller that was killed gets them again.
        """
        for _, answer in self._fetched():
            yield answer

    # ---- one part

    def _start(self, client: Any, part: Part) -> None:
        if part.event == "written":
            data = self.folder.requests_file(part.number).read_bytes()
            name = f"medray-{part.digest[:16]}.jsonl"
            uploaded = self._call(lambda: client.files.create(file=(name, data), purpose="batch"))
            part = self.folder.change(part, "uploaded", file_id=_id_of(uploaded))
        if part.event == "uploaded":
            found = self._created_before(client, part) or self._call(
                lambda: client.batches.create(
                    input_file_id=part.file_id,
                    endpoint="/v1/chat/completions",
                    completion_window=WINDOW,
                    metadata={"description": "medray", "digest": part.digest[:32]},
                ),
                again=lambda: self._created_before(client, part),
            )
            self.folder.change(part, "created", batch_id=_id_of(found))
            for _ in range(part.requests):
                self.usage.count_sent()

    def _created_before(self, client: Any, part: Part) -> Any:
        """Return the batch of a part that exists at the server, although nothing was recorded of it."""
        listed = self._call(lambda: client.batches.list(limit=100))
        return next(
            (each for each in listed.data if getattr(each, "input_file_id", None) == part.file_id), None
        )

    def _batch(self, client: Any, part: Part) -> Any:
        if part.event != "created":
            return None
        return self._call(lambda: client.batches.retrieve(part.batch_id))

    def _fetched(self) -> Iterator[tuple[str, Reply | Failure]]:
        """Yield (id, answer) of batches that are over."""
        with self._client() as client:
            for part in self.folder.open_parts():
                batch = self._batch(client, part)
                if batch is None or batch.status not in OVER:
                    continue
                files = (
                    (batch.output_file_id, self.folder.output_file(part.number)),
                    (batch.error_file_id, self.folder.error_file(part.number)),
                )
                for file_id, target in files:
                    if file_id and not target.exists():
                        self._call(lambda file_id=file_id, target=target: _download(client, file_id, target))  # type: ignore[misc]
                actual = 0.0
                for name, answer in self._answers_of(part, str(batch.status)):
                    self.usage.count(answer)
                    actual += (answer.cost or 0.0) if isinstance(answer, Reply) else 0.0
                    yield name, answer
                self.folder.change(part, "fetched")
                self.budget.settle(part.most_cost, actual)

    def _answers_of(self, part: Part, status: str) -> Iterator[tuple[str, Reply | Failure]]:
        """Yield an answer for each request of a part, from its output file, its error file, or neither."""
        keys = self.folder.keys(part.number)
        for file in (self.folder.output_file(part.number), self.folder.error_file(part.number)):
            for line in self._lines(file):
                name = line.get("custom_id")
                key = keys.pop(name, None) if isinstance(name, str) else None
                if key is None or not isinstance(name, str):
                    self.ignored["unknown or repeated id"] += 1
                    continue
                yield name, self._answer(key, line)
        for name, key in keys.items():
            message = f"the batch is {status}, and its files have no line for this request"
            yield name, Failure(key=key, kind="missing", message=message, attempts=1)

    def _lines(self, file: Path) -> Iterator[dict[str, Any]]:
        if not file.exists():
            return
        with file.open("rb") as stream:
            while line := stream.readline(LINE_BYTES):
                try:
                    found = json.loads(line) if line.strip() else None
                except (ValueError, RecursionError):
                    found = ""
                if isinstance(found, dict):
                    yield found
                elif found is not None:
                    self.ignored["unreadable line"] += 1

    def _answer(self, key: str, line: dict[str, Any]) -> Reply | Failure:
        response, error = line.get("response"), line.get("error")
        status = response.get("status_code") if isinstance(response, dict) else None
        if isinstance(response, dict) and status == 200 and not error:
            try:
                return parse_reply(self.section, key, response.get("body"))
            except SendError as failed:
                return Failure(key=key, kind="malformed", message=failed.message, status=200, attempts=1)
        code = error.get("code") if isinstance(error, dict) else None
        said = (
            f" ({code})"
            if isinstance(code, str) and code.isascii() and code.replace("_", "").isalnum()
            else ""
        )
        number = status if isinstance(status, int) and not isinstance(status, bool) else None
        refused = number is not None and 400 <= number < 500 and number != 429
        return Failure(
            key=key,
            kind="refused" if refused else "server",
            message=f"the batch answered {number or 'an error'}{said[:60]}",
            status=number,
            attempts=1,
        )

    # ---- calls

    def _client(self) -> Any:
        return openai_client(self.section, self.where)

    def _identity(self, request: Request) -> str:
        return identity(request.key, body(self.section, request))

    def _call(self, call: Callable[[], Found], again: Callable[[], Found | None] | None = None) -> Found:
        """Return the result of a call, which is repeated after faults. again: finds the result of a call that broke off."""
        limits = self.section.limits
        for attempt in range(1, limits.retries + 2):
            try:
                return call()
            except Exception as error:
                known = send_error(self.section, self.where, error)
                if known is None:
                    raise
                if known.status == 404:
                    raise InputError(
                        "the server answered 404: it has no batch interface, or no longer this batch",
                        key=f"{self.where}.type",
                        value="batch",
                        fix="set type: endpoint for this server",
                    ) from None
                if known.stop is not None:
                    raise known.stop from None
                if not known.retry or attempt > limits.retries:
                    raise RunFailedError(
                        f"{self.name}: {known.message}\n  Fix: run the command again to continue"
                    ) from None
                self.usage.count_retry(known.kind)
                self._stop.wait(max(retry_wait(limits, 0, self.name, attempt), known.wait or 0.0))
            if again is not None and (found := again()) is not None:
                return found
        raise AssertionError("unreachable")


def _id_of(found: Any) -> str:
    """Return the id of an object that the server made. Raises InputError for an answer without one."""
    name = getattr(found, "id", None)
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) < 200:
        raise InputError(
            "the server's answer has no id: it may have no batch interface",
            key="base_url",
            fix="set type: endpoint for this server",
        )
    return name


def _download(client: Any, file_id: str, target: Path) -> None:
    """Write a file of the server to `target`, completely or not at all. Raises SendError if it was cut or is too large."""
    parts, size, said = [], 0, None
    with client.files.with_streaming_response.content(file_id) as answer:
        said = answer.headers.get("content-length")
        for part in answer.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > OUTPUT_BYTES:
                raise SendError("malformed", f"a file has more than {OUTPUT_BYTES:,} bytes", retry=False)
    encoded = answer.headers.get("content-encoding")
    if said is not None and said.isdigit() and not encoded and int(said) != size:
        raise SendError("connection", f"a file has {size:,} of {said} bytes")
    storage.write(target, b"".join(parts))
