"""The files of batches: requests split at the provider's limits, and an append-only record of what was sent.

In the folder of a backend: `batches.jsonl`, one line per event of a part (written, uploaded, created, fetched);
`requests-N.jsonl`, the request file of part N; `keys-N.jsonl`, the caller's keys for its ids; `output-N.jsonl` and
`errors-N.jsonl`, as the server wrote them. All may contain text of records, and only their owner may read them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medray import storage
from medray.errors import InputError

FILE = "batches.jsonl"
MOST_LINES, MOST_BYTES = 50_000, 200_000_000  # of one request file at OpenAI
Event = Literal["written", "uploaded", "created", "fetched"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One batch.

    number: from 1. event: the last thing that happened. digest: of its request file. most_cost: upper bound of its cost.
    """

    number: int
    event: Event
    requests: int
    digest: str
    most_cost: float = 0.0
    file_id: str = ""
    batch_id: str = ""


@dataclass(slots=True)
class BatchFolder:
    """The record of a folder. Raises InputError for a record that medray did not write."""

    path: Path
    parts: dict[int, Part] = field(default_factory=dict)

    def __post_init__(self) -> None:
        storage.make_private(self.path)
        try:
            data = (self.path / FILE).read_bytes()
        except FileNotFoundError:
            return
        for line in data[: data.rfind(b"\n") + 1].split(b"\n"):
            if not line.strip():
                continue
            try:
                part = Part(**json.loads(line))
            except (ValueError, TypeError):
                raise InputError(
                    "contains a line that medray did not write",
                    file=self.path / FILE,
                    fix="restore the file from a copy, or name another folder",
                ) from None
            self.parts[part.number] = part

    def note(self, part: Part) -> None:
        """Record an event of a part."""
        storage.append(self.path / FILE, json.dumps(asdict(part)) + "\n")
        self.parts[part.number] = part

    def open_parts(self) -> list[Part]:
        """Return the parts whose answers were not fetched yet."""
        return [part for part in self.parts.values() if part.event != "fetched"]

    def requests_file(self, number: int) -> Path:
        return self.path / f"requests-{number}.jsonl"

    def output_file(self, number: int) -> Path:
        return self.path / f"output-{number}.jsonl"

    def error_file(self, number: int) -> Path:
        return self.path / f"errors-{number}.jsonl"

    def keys(self, number: int) -> dict[str, str]:
        """Return the caller's key of each id in a part."""
        text = (self.path / f"keys-{number}.jsonl").read_text(encoding="utf-8", errors="surrogatepass")
        return dict(json.loads(line) for line in text.splitlines())

    def write_part(self, lines: list[bytes], keys: dict[str, str], most_cost: float) -> Part:
        """Write the files of a new part and record it."""
        number = max(self.parts, default=0) + 1
        data = b"".join(lines)
        pairs = "".join(json.dumps([identity, key]) + "\n" for identity, key in keys.items())
        storage.write(self.path / f"keys-{number}.jsonl", pairs)
        storage.write(self.requests_file(number), data)
        part = Part(
            number=number,
            event="written",
            requests=len(lines),
            digest=hashlib.sha256(data).hexdigest(),
            most_cost=most_cost,
        )
        self.note(part)
        return part

    def change(self, part: Part, event: Event, **values: str) -> Part:
        """Record the next event of a part and return it."""
        changed = replace(part, event=event, **values)  # type: ignore[arg-type]
        self.note(changed)
        return changed


def identity(key: str, body: dict[str, Any]) -> str:
    """Return the id of a request at the server: it depends on its key and its whole body, and reveals neither."""
    whole = json.dumps([key, body], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def line_of(name: str, body: dict[str, Any]) -> bytes:
    """Return the line of a request file. name: the id of the request."""
    found = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(found, ensure_ascii=True).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Line:
    """A request that waits for its part."""

    identity: str
    key: str
    data: bytes
    most_cost: float


def split(lines: Iterable[Line], most_lines: int, most_bytes: int) -> Iterator[list[Line]]:
    """Yield the lines in parts within both limits. A line above the limit of bytes is a part of its own."""
    part: list[Line] = []
    size = 0
    for line in lines:
        if part and (len(part) == most_lines or size + len(line.data) > most_bytes):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line.data)
    if part:
        yield part
