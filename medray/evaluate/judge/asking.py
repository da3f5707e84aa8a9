"""Asking both judges for the verdicts that are missing.

The judges work at the same time on the same chunk of items, and neither sees what the other said. A verdict is written when
it arrives, so a start that was killed continues with the missing ones.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from medray.backends.build import LocalModel, build
from medray.backends.price import Budget, Estimate, estimate
from medray.backends.protocol import Backend, Failure, Request
from medray.backends.wall import check_kinds
from medray.config.judge import JudgeBackendConfig, JudgeConfig
from medray.evaluate.judge.items import Item
from medray.evaluate.judge.rules import rules
from medray.evaluate.judge.state import Judged, State
from medray.evaluate.judge.verdicts import SCHEMA, messages, parse

CHUNK = 256  # items that both judges finish before the next ones
CHUNK_OF_BUDGET = 16  # the same with a budget: when it is spent, few items have one verdict


@dataclass(frozen=True, slots=True)
class Asked:
    """Failures by judge and reason, and unreadable replies by judge, each of which was asked again."""

    failures: dict[str, Counter[str]] = field(default_factory=dict)
    unreadable: Counter[str] = field(default_factory=Counter)


class Panel:
    """The two judges of a config and the items that they judge."""

    def __init__(self, config: JudgeConfig, items: Sequence[Item], state: State) -> None:
        self.config, self.items, self.state = config, items, state
        # Recorded replies are the judge, so replies that were corrected are read again.
        self._replies = {judge.name: _content(judge.file) for judge in config.judges if judge.file}
        self.hashes = {(item.id, judge.name): self._hash(judge, item) for judge in config.judges for item in items}  # fmt: skip

    def judged(self, judge: str, item: Item) -> Judged | None:
        """Return the verdict of a judge on an item in its present form, None if there is none."""
        found = self.state.judged.get((item.id, judge))
        return found if found is not None and found.asked == self.hashes[item.id, judge] else None

    def missing(self, judge: str) -> list[Item]:
        return [item for item in self.items if self.judged(judge, item) is None]

    def request(
        self, judge: JudgeBackendConfig, item: Item, number: int = 1, before: Sequence[str] = ()
    ) -> Request:
        """Return the request for a verdict. number: of the try, from 1. before: unreadable replies."""
        config = self.config
        return Request(
            key=f"{item.id}#{number}",
            messages=messages(item, config.instruction, show_gold=config.show_gold, before=before),
            holds=config.holds,
            max_tokens=config.max_new_tokens,
            schema=SCHEMA if judge.json_schema else None,
        )

    def check_allowed(self) -> None:
        """Check that every judge may receive the items. Raises InputError before anything is sent."""
        for number, judge in enumerate(self.config.judges):
            check_kinds(judge, {self.config.holds: len(self.missing(judge.name))}, f"judges[{number}]")

    def estimates(self) -> dict[str, Estimate]:
        """Return the estimated cost of the missing verdicts by judge, if every reply is as long as its limit."""
        return {
            judge.name: estimate((self.request(judge, item) for item in self.missing(judge.name)), judge.price)
            for judge in self.config.judges
        }  # fmt: skip

    def backends(self, budget: Budget, local: LocalModel | None) -> dict[str, Backend]:
        """Return the backends of the judges by name. Raises InputError for one that cannot be used."""
        known = rules(self.items)
        return {
            judge.name: build(
                judge,
                f"judges[{number}]",
                budget=budget,
                seed=self.config.seed,
                folder=Path(self.config.folder) / f"batches-{judge.name}",
                local=local,
                rules=known,
            )
            for number, judge in enumerate(self.config.judges)
        }

    def ask(self, backends: dict[str, Backend], progress: Callable[[int, int], None]) -> Asked:
        """Ask for all missing verdicts and write each into the state.

        progress: called with (items done, items) after each chunk. Raises the errors of `Backend.answers`; verdicts that
        had arrived are kept.
        """
        asked = Asked({judge.name: Counter() for judge in self.config.judges})
        writing, stop = threading.Lock(), threading.Event()
        with ThreadPoolExecutor(len(self.config.judges), thread_name_prefix="judge") as pool:
            size = CHUNK if self.config.budget is None else CHUNK_OF_BUDGET
            if any(judge.type == "batch" for judge in self.config.judges):
                size = len(self.items)
            for start in range(0, len(self.items), size):
                chunk = self.items[start : start + size]
                work = [
                    pool.submit(self._ask_one, judge, backends[judge.name], chunk, asked, writing, stop)
                    for judge in self.config.judges
                ]
                try:
                    wait(work, return_when=FIRST_EXCEPTION)
                finally:  # after an error or Ctrl-C, replies on their way are still awaited: they are paid
                    if not all(one.done() and one.exception() is None for one in work):
                        stop.set()
                for one in work:
                    one.result()
                progress(min(start + size, len(self.items)), len(self.items))
        return asked

    def _ask_one(
        self,
        judge: JudgeBackendConfig,
        backend: Backend,
        chunk: Sequence[Item],
        asked: Asked,
        writing: threading.Lock,
        stop: threading.Event,
    ) -> None:
        """Ask one judge about a chunk: up to `tries` rounds, each with the items whose reply was not readable."""
        waiting = {item.id: item for item in chunk if self.judged(judge.name, item) is None}
        before: dict[str, list[str]] = {each: [] for each in waiting}
        costs: Counter[str] = Counter()
        for number in range(1, self.config.tries + 1):
            requests = [self.request(judge, item, number, before[item.id]) for item in waiting.values()]
            for answer in backend.answers(takewhile(lambda _: not stop.is_set(), requests)):
                item = waiting[answer.key.rpartition("#")[0]]
                if isinstance(answer, Failure):
                    del waiting[item.id]  # no verdict: the next start asks again
                    with writing:
                        asked.failures[judge.name][answer.message] += 1
                    continue
                costs[item.id] += answer.cost or 0.0  # type: ignore[assignment]
                before[item.id].append(answer.text)
                verdict = parse(answer.text)
                with writing:
                    asked.unreadable[judge.name] += verdict is None
                    if verdict is not None or number == self.config.tries:
                        del waiting[item.id]
                        self.state.add(
                            Judged(
                                item=item.id,
                                judge=judge.name,
                                asked=self.hashes[item.id, judge.name],
                                verdict=verdict.verdict if verdict else None,
                                reason=verdict.reason if verdict else "",
                                model=answer.model,
                                tries=number,
                                cost=float(costs[item.id]),
                            )
                        )

    def _hash(self, judge: JudgeBackendConfig, item: Item) -> str:
        """Return a hash of everything that decides a verdict: the prompt, the model, and how it is asked."""
        config = self.config
        asked = [
            item.content if judge.type == "rule" else "",
            [[one.role, one.content] for one in self.request(judge, item).messages],
            [
                judge.type,
                judge.base_url,
                judge.model,
                self._replies.get(judge.name),
                judge.rule,
                judge.json_schema,
            ],
            [judge.body, config.max_new_tokens, config.tries],
        ]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _content(file: str) -> str:
    """Return a hash of a file; "" if it cannot be read, which its backend refuses with the reason."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
