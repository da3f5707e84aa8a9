"""Asking the teacher for the samples that are missing, and choosing among those that have arrived."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from medray.backends.build import LocalModel, build
from medray.backends.price import Budget, Estimate, estimate
from medray.backends.protocol import Backend, Failure, Message, Request
from medray.backends.wall import check_kinds
from medray.config.annotate import AnnotateConfig
from medray.config.columns import template_parts
from medray.evaluate.annotate.items import Item
from medray.evaluate.annotate.replies import Compare, Read, chosen_compare, read_reply
from medray.evaluate.annotate.state import Sample, Samples

TEACHER = "teacher"  # the key of the backend's section


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The samples of an item.

    reads: of those that have arrived, in order. rationales: those that are kept. pending: whether more must be asked for
    before the item is decided.
    """

    reads: tuple[Read, ...]
    rationales: tuple[str, ...]
    pending: bool


class Annotation:
    """The items of a config and the samples that a teacher gave for them.

    weights: JSON that identifies the weights of a local model, so that a model that was trained again is asked again.
    """

    def __init__(
        self, config: AnnotateConfig, items: Sequence[Item], samples: Samples, weights: object = None
    ) -> None:
        self.config, self.items, self.samples, self._weights = config, items, samples, weights
        own = config.ask == "rationale"
        asked = "none" if own and config.filter.compare == "auto" else config.filter.compare
        self.compare: Compare = chosen_compare(asked, items)
        self.holds = config.holds or ("synthetic" if config.data.dataset == "clinic" else "records")
        self._parts = template_parts("{input}" if own else config.prompt)
        self._hashes = {item.key: self._hash(item) for item in items}

    def request(self, item: Item, number: int) -> Request:
        """Return the request for a sample. number: from 1."""
        config = self.config
        return Request(
            key=f"{item.key}#{number}",
            messages=self._messages(item),
            holds=self.holds,
            max_tokens=config.max_new_tokens,
            temperature=config.heat,
            top_p=config.top_p,
            seed=config.seed + number - 1 if config.heat else None,
        )

    def found(self, item: Item) -> Found:
        """Return what has arrived for an item, and what is kept of it."""
        keep, count = self.config.filter.keep, self.config.samples
        asked = self._hashes[item.key]
        there = [self.samples.of(item.key, number, asked) for number in range(1, count + 1)]
        reads = tuple(self._read(item, sample) for sample in there if sample is not None)
        right = [read.rationale for read in reads if read.state == "right"]
        missing = any(sample is None for sample in there)
        if keep == "first":
            return Found(reads=reads, rationales=tuple(right[:1]), pending=missing and not right)
        if keep == "majority":
            votes = Counter(read.same_as for read in reads if read.state == "wrong")
            right = right[:1] if len(right) > max(votes.values(), default=0) else []
        return Found(reads=reads, rationales=() if missing else tuple(dict.fromkeys(right)), pending=missing)

    def missing(self) -> Iterator[tuple[Item, int]]:
        """Yield (item, number) of the samples that may be asked for at most."""
        for item in self.items:
            if self.found(item).pending:
                for number in range(1, self.config.samples + 1):
                    if self.samples.of(item.key, number, self._hashes[item.key]) is None:
                        yield item, number

    def _missing(self, number: int) -> Iterator[tuple[Item, int]]:
        """Yield the missing samples of one number."""
        for item in self.items:
            there = self.samples.of(item.key, number, self._hashes[item.key])
            if there is None and self.found(item).pending:
                yield item, number

    def check_allowed(self) -> None:
        """Check that the teacher may receive the records. Raises InputError before anything is sent."""
        check_kinds(self.config.teacher, {self.holds: sum(1 for _ in self.missing())}, TEACHER)

    def estimate(self) -> Estimate:
        """Return the estimated cost of the samples that are missing, if no record is done before its last sample.

        Replies are as long as earlier ones on average; without any, as long as their limit.
        """
        lengths = [one.completion_tokens for one in self.samples.found.values() if one.completion_tokens]
        return estimate(
            (self.request(item, number) for item, number in self.missing()),
            self.config.teacher.price,
            completion_tokens=sum(lengths) / len(lengths) if lengths else None,
        )

    def backend(self, folder: Path, budget: Budget, local: LocalModel) -> Backend:
        """Return the teacher. folder: where a batch interface keeps its files. Raises InputError if it cannot be used."""
        config = self.config
        return build(
            config.teacher, TEACHER, budget=budget, seed=config.seed, folder=folder / "batches", local=local
        )

    def ask(self, backend: Backend, progress: Callable[[int], None]) -> Mapping[str, int]:
        """Ask for the missing samples, and write each when it arrives; return the failures by reason.

        A record is asked for its next sample when the one before was not right, if the first right sample is kept; a
        batch interface, which may take a day, is asked for all samples at once. progress: called with the number of
        samples that have arrived. Raises the errors of `Backend.answers`; samples that had arrived are kept.
        """
        stop = threading.Event()
        if (
            self.config.teacher.type == "batch"
        ):  # its batches are found again, so nobody waits for them after Ctrl-C
            return self._ask(backend, progress, stop)
        with ThreadPoolExecutor(1, thread_name_prefix="teacher") as pool:
            work = pool.submit(self._ask, backend, progress, stop)
            try:
                wait([work])
            finally:  # after Ctrl-C, replies on their way are still awaited: they are paid
                stop.set()
        return work.result()

    def _ask(
        self, backend: Backend, progress: Callable[[int], None], stop: threading.Event
    ) -> Mapping[str, int]:
        """Ask for the missing samples until `stop` is set."""
        failures: Counter[str] = Counter()
        by_round = self.config.filter.keep == "first" and self.config.teacher.type != "batch"
        rounds = [self._missing(number) for number in range(1, self.config.samples + 1)] if by_round else [self.missing()]  # fmt: skip
        arrived = 0
        for each in rounds:
            asked = list(each)
            items = {f"{item.key}#{number}": (item, number) for item, number in asked}
            requests = (self.request(item, number) for item, number in asked)
            for answer in backend.answers(takewhile(lambda _: not stop.is_set(), requests)):
                if isinstance(answer, Failure):
                    failures[answer.message] += 1
                    continue
                item, number = items[answer.key]
                self.samples.add(
                    Sample(
                        item=item.key,
                        number=number,
                        asked=self._hashes[item.key],
                        text=answer.text,
                        finish_reason=answer.finish_reason,
                        model=answer.model,
                        prompt_tokens=answer.prompt_tokens,
                        completion_tokens=answer.completion_tokens,
                        cost=answer.cost or 0.0,
                    )
                )
                arrived += 1
                progress(arrived)
        return failures

    def _read(self, item: Item, sample: Sample) -> Read:
        return read_reply(sample.text, sample.finish_reason, item, self.compare, self.config.filter.answer)

    def _messages(self, item: Item) -> tuple[Message, ...]:
        fields = {"input": item.input, "label": item.label}
        text = "".join(fields[part] if is_field else part for part, is_field in self._parts)
        user = Message(role="user", content=text)
        system = self.config.system
        return (user,) if system is None else (Message(role="system", content=system), user)

    def _hash(self, item: Item) -> str:
        """Return a hash of everything that decides a sample: the prompt, the model, and how it is asked."""
        config, teacher = self.config, self.config.teacher
        asked = [
            [[one.role, one.content] for one in self._messages(item)],
            [teacher.type, teacher.base_url, teacher.model, teacher.file, teacher.body],
            *([self._weights] if self._weights is not None else []),
            [config.ask, config.max_new_tokens, config.heat, config.top_p, config.seed],
        ]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
