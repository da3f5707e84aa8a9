"""The limits of a server, all of them checked before a model is asked."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of a server.

    body_bytes: largest body. body_seconds: longest time that a client may take to send it. answer_tokens: longest
    answer that a request may ask for. batch: largest number of requests that are answered at once. waiting: largest
    number of requests that wait.
    """

    body_bytes: int = MEBIBYTE
    body_seconds: float = 30.0
    answer_tokens: int = 1024
    batch: int = 8
    waiting: int = 128
