"""Counts of what a backend did: replies, retries, failures, refusals by the privacy wall, tokens and cost."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from medray.backends.protocol import Failure, Reply


class Usage:
    """Counts that several threads may add to.

    cost: of replies. uncertain_cost: an upper bound of what a server may charge for requests whose reply did not arrive.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.replies = self.prompt_tokens = self.completion_tokens = self.sent = 0
        self.replies_without_counts = 0
        self.cost = self.uncertain_cost = 0.0
        self.retries: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.finish_reasons: Counter[str] = Counter()

    def count(self, answer: Reply | Failure) -> None:
        with self._lock:
            if isinstance(answer, Failure):
                self.failures[answer.kind] += 1
                return
            self.replies += 1
            self.finish_reasons[answer.finish_reason] += 1
            self.prompt_tokens += answer.prompt_tokens or 0
            self.completion_tokens += answer.completion_tokens or 0
            self.replies_without_counts += answer.completion_tokens is None
            self.cost += answer.cost or 0.0

    def count_sent(self) -> None:
        with self._lock:
            self.sent += 1

    def count_retry(self, reason: str) -> None:
        with self._lock:
            self.retries[reason] += 1

    def count_uncertain(self, cost: float) -> None:
        with self._lock:
            self.uncertain_cost += cost

    def to_json(self) -> dict[str, Any]:
        with self._lock:
            return {
                "requests_sent": self.sent,
                "replies": self.replies,
                "finish_reasons": dict(sorted(self.finish_reasons.items())),
                "retries": dict(sorted(self.retries.items())),
                "failures": dict(sorted(self.failures.items())),
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "replies_without_token_counts": self.replies_without_counts,
                "cost": self.cost,
                "uncertain_cost": self.uncertain_cost,
            }
