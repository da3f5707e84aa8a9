"""One start of `medray synth chat`: questions, then situations, then chats, as far as replies, budget and time allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medray import storage
from medray.backends.batches import Batches, BatchStatus
from medray.backends.build import LocalModel, build
from medray.backends.price import Budget, Estimate, estimate, most_cost
from medray.backends.protocol import Backend, BudgetSpentError, Request
from medray.config.synth import SynthConfig
from medray.errors import InputError
from medray.storage import StoragePath, json_files
from medray.synth import settings
from medray.synth.asking import estimate as estimates
from medray.synth.asking.ask import Outcome, Work, ask, open_requests, record_all
from medray.synth.asking.reply_files import ReplyFiles, write_requests
from medray.synth.asking.store import Store
from medray.synth.chat import checks, opening
from medray.synth.chat.situations import Situation
from medray.synth.chat.turns import conversation
from medray.synth.chat.work import ChatWork, Situations
from medray.synth.lines import write_lines
from medray.synth.prompts.work import QuestionWork
from medray.train.run_folder import lock

CHATS, SUMMARY, REQUEST_FOLDER = "chats.jsonl", "synth.json", "to_answer"
UNCERTAIN = "uncertain_cost.json"
BATCH_FOLDER = "batches"
Until = Literal["questions", "chats"]
Mode = Literal["ask", "submit", "fetch"]


@dataclass(kw_only=True)
class Summary:
    """The result of a start.

    status: done; waiting, for replies to the files in `to_answer`; submitted, for batches; budget; open, if a server gave no
    reply to some requests; estimate, if something is open and nothing was asked for.
    uncertain_cost: highest cost of requests of all starts whose replies were lost after they were sent.
    dropped: questions and chats that were given up, by reason. files: request files that were written. submitted: requests
    that were sent as batches now.
    """

    status: str = "done"
    stage: Until = "chats"
    questions: int = 0
    chats: int = 0
    finished: int = 0
    unfinished: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    accepted: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    submitted: int = 0
    cost: float = 0.0
    uncertain_cost: float = 0.0
    estimates: list[Estimate] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "estimates"}
        return plain | {
            "estimated_cost": sum(each.cost for each in self.estimates),
            "estimated_requests": sum(each.requests for each in self.estimates),
        }


@dataclass(kw_only=True)
class Watch:
    """The callbacks of a start: a sentence for the user, an estimate before requests, and progress after each reply."""

    say: Callable[[str], None] = lambda text: None
    estimated: Callable[[str, Estimate], None] = lambda what, found: None
    progress: Callable[[str, Outcome], None] = lambda what, outcome: None


def chat(
    config: SynthConfig,
    *,
    replies: Sequence[Path] = (),
    step: str | None = None,
    until: Until = "chats",
    only_estimate: bool = False,
    mode: Mode = "ask",
    watch: Watch | None = None,
    local: LocalModel | None = None,
) -> Summary:
    """Continue a synthesis as far as possible, and write its results to its folder.

    replies: files with replies to earlier requests, besides those of `backend`. step: of custom ids in them that medray did
    not write. only_estimate: ask for nothing. mode: with a batch backend, submit sends what is open and returns,
    fetch records the answers of batches that are over, and ask waits for them. local: makes the backend of a local model.
    Raises InputError, and the errors of the backend; what had arrived by then is in the state.
    """
    watch = watch or Watch()
    checks.check_installed()
    folder = settings.folder_of(config)
    with lock.held(folder, watch.say), ExitStack() as stack:
        store = stack.enter_context(closing(Store(folder)))
        store.compact_if_many()
        recorded = stack.enter_context(closing(ReplyFiles(replies, step))) if replies else None
        start = _Start(config, folder, store, watch, until, only_estimate, mode, local)
        if isinstance(start.live, ReplyFiles):
            stack.enter_context(closing(start.live))
        return start.run(recorded)


class _Start:
    """One start, with what its parts share."""

    def __init__(
        self,
        config: SynthConfig,
        folder: StoragePath,
        store: Store,
        watch: Watch,
        until: Until,
        only_estimate: bool,
        mode: Mode,
        local: LocalModel | None,
    ) -> None:
        self.config, self.folder, self.store, self.watch = config, folder, store, watch
        self.until, self.only_estimate, self.mode = until, only_estimate, mode
        self.uncertain_before = _uncertain_cost(folder)
        self.summary = Summary(cost=store.cost, uncertain_cost=self.uncertain_before)
        self.budget = Budget(config.budget, spent=store.cost + self.uncertain_before)
        section = config.backend
        self.live: Backend | None = None
        self.price = section.price if section else config.files.price
        if section is not None and section.type == "replay":
            self.live = ReplyFiles([Path(str(section.file))], key="backend.file")
        elif section is not None:
            batches = batch_folder(config, folder) if section.type == "batch" else None
            seed = config.run.seed
            self.live = build(section, "backend", budget=self.budget, seed=seed, folder=batches, local=local)
        if mode != "ask" and (section is None or section.type != "batch"):
            raise not_batch(config)

    def run(self, recorded: ReplyFiles | None) -> Summary:
        try:
            return self._run(recorded)
        finally:
            self._keep_uncertain_cost()

    def _keep_uncertain_cost(self) -> None:
        """Record the cost of lost replies, so that the budget of the next start counts it too."""
        if self.live is not None and self.live.usage.uncertain_cost:
            self.summary.uncertain_cost = self.uncertain_before + self.live.usage.uncertain_cost
            json_files.write_sealed(self.folder / UNCERTAIN, {"cost": self.summary.uncertain_cost})

    def _run(self, recorded: ReplyFiles | None) -> Summary:
        found = opening.made_before(self.folder, self.config) or self._opening(recorded)
        if found is not None:
            self.summary.questions, self.summary.dropped = found.questions, dict(found.dropped)
        if found is not None and self.until == "chats":
            with closing(Situations(found.file)) as situations:
                self._chats(self._chat_work(situations), recorded)
        self.summary.cost = self.store.cost
        self._keep_uncertain_cost()
        self._count()
        if self.only_estimate:
            self.summary.status = "estimate" if self.summary.estimates else "done"
        else:
            json_files.write_sealed(self.folder / SUMMARY, self.summary.to_json(), indent=2)
        return self.summary

    def _opening(self, recorded: ReplyFiles | None) -> opening.Opening | None:
        """Return the situations that chats begin with, or None if questions are missing."""
        if opening.has_inputs(self.config):
            return opening.of_inputs(self.folder, self.config)
        prompts = opening.prompts(self.folder, self.config)
        work = QuestionWork(prompts.requests, self.store)
        self.summary.stage = "questions"
        if not self._ask("questions", work, recorded):
            return None
        return opening.of_replies(self.folder, self.config, prompts, work.replies())

    def _chat_work(self, situations: Situations) -> ChatWork:
        chat = self.config.chat
        return ChatWork(situations, self.store, history=chat.history, max_tokens=chat.max_tokens)

    def _chats(self, work: ChatWork, recorded: ReplyFiles | None) -> None:
        self.summary.stage, self.summary.chats = "chats", len(work.situations)
        opening.import_chats(self.config, work.situations, self.store)
        self._ask("chats", work, recorded)
        if not self.only_estimate:
            self.summary.finished = write_lines(self.folder / CHATS, map(_chat_row, work.finished()))
        else:
            self.summary.finished = sum(work.next_step(name) is None for name in work.names())
        self.summary.unfinished = self.summary.chats - self.summary.finished
        dropped = Counter(self.summary.dropped)
        for name in work.names():
            step = work.next_step(name)
            if step is not None and self.store.attempts(name, step) > self.config.chat.retries:
                dropped[self.store.last_reason.get((name, step), "unknown")] += 1
        self.summary.dropped = dict(dropped)

    def _ask(self, what: str, work: Work, recorded: ReplyFiles | None) -> bool:
        """Ask for what is missing, and return whether nothing is open afterwards."""
        keys: dict[str, Any] = {"retries": self.config.chat.retries, "seed": self.config.run.seed}
        keys["temperature"] = self.config.chat.temperature

        def watch(outcome: Outcome) -> None:
            self.watch.progress(what, outcome)

        if recorded is not None and not self.only_estimate:
            found = ask(work, self.store, recorded, price=self.price, watch=watch, **keys)
            self.summary.accepted += found.accepted
        if isinstance(self.live, Batches) and self.mode == "fetch":
            found = record_all(work, self.store, self.live.fetch(), self.live.name, self.price)
            self.summary.accepted += found.accepted
            self.summary.failures = dict(Counter(self.summary.failures) + found.failures)
        left = self._estimate(work, keys)
        if left.requests:
            self.summary.estimates.append(left)
            self.watch.estimated(what, left)
        if not left.requests or self.only_estimate:
            if not left.requests:
                storage.remove_tree(self.folder / REQUEST_FOLDER)  # they are answered
            return not left.requests
        if self.live is None:
            self._write_requests(open_requests(work, self.store, **keys))
            return False
        if isinstance(self.live, Batches) and self.mode != "ask":
            return self._submit(self.live, open_requests(work, self.store, **keys))
        try:
            outcome = ask(work, self.store, self.live, price=self.price, watch=watch, **keys)
        except BudgetSpentError as error:
            self.summary.status = "budget"
            self.watch.say(str(error))
            return False
        self.summary.accepted += outcome.accepted
        self.summary.failures = dict(Counter(self.summary.failures) + outcome.failures)
        if outcome.open_requests:
            self.summary.status = "open"
        return not outcome.open_requests

    def _submit(self, live: Batches, requests: Iterator[Request]) -> bool:
        """Send what is open as batches, unless only answers are fetched now. Returns False: answers are missing."""
        self.summary.status = "submitted"
        if self.mode == "submit":
            # Also with another model or temperature: the answer that is on its way is paid, and counts.
            parts = live.folder.open_parts()
            on_the_way = {key for part in parts for key in live.folder.keys(part.number).values()}
            sent = live.submit(each for each in requests if each.key not in on_the_way)
            self.summary.submitted = sent.requests
            if sent.over_budget:
                self.summary.status = "budget"
                self.watch.say(
                    f"{sent.over_budget:,} requests were not sent, since they could exceed the budget"
                )
        return False

    def _estimate(self, work: Work, keys: dict[str, Any]) -> Estimate:
        if isinstance(work, ChatWork):
            left = [
                name
                for name in work.names()
                if (step := work.next_step(name)) is not None
                and self.store.attempts(name, step) <= keys["retries"]
            ]
            return estimates.of_chats(
                left, work.situations.get, work.replies, self.store, self.price, self.config.chat.max_tokens
            )
        per_reply = estimates.mean_tokens(self.store, "q")
        return estimate(open_requests(work, self.store, **keys), self.price, completion_tokens=per_reply)

    def _write_requests(self, requests: Iterator[Request]) -> None:
        """Write request files, up to the first request that could exceed the budget."""

        def affordable() -> Iterator[Request]:
            for request in requests:
                if not self.budget.reserve(most_cost(self.price, request)):
                    self.summary.status = "budget"
                    self.watch.say(
                        f"the budget of {self.config.budget:g} does not cover all requests; the rest was not written"
                    )
                    return
                yield request

        self.summary.status = "waiting"
        target = self.folder / REQUEST_FOLDER
        names = write_requests(target, affordable(), self.config.files)
        self.summary.files = [str(target / name) for name in names]

    def _count(self) -> None:
        rejected: Counter[str] = Counter()
        for (_, status, reason), count in self.store.counts.items():
            if status != "ok":
                rejected[reason] += count
        self.summary.rejected = dict(sorted(rejected.items()))


def batch_status(config: SynthConfig) -> list[BatchStatus]:
    """Return the progress of the batches that were not fetched yet. Raises InputError without a batch backend."""
    section = config.backend
    if section is None or section.type != "batch":
        raise not_batch(config)
    folder = settings.folder_of(config)
    with lock.held(folder):
        return Batches(section, "backend", batch_folder(config, folder)).status()


def batch_folder(config: SynthConfig, folder: StoragePath) -> Path:
    """Return the folder of the batches. Raises InputError in a bucket, where request files cannot be kept."""
    if not isinstance(folder, Path):
        raise InputError(
            "batches need a folder on this machine or a shared one",
            key="run.storage",
            value=config.run.storage,
            fix="set run.storage to a folder",
        )
    return folder / BATCH_FOLDER


def not_batch(config: SynthConfig) -> InputError:
    return InputError(
        "only a batch backend can submit and fetch",
        key="backend.type",
        value=config.backend.type if config.backend else "none",
        fix="set backend.type: batch, or use medray synth chat",
    )


def _uncertain_cost(folder: StoragePath) -> float:
    try:
        found = json_files.read_sealed(folder / UNCERTAIN)
    except FileNotFoundError:
        return 0.0
    with json_files.checking(folder / UNCERTAIN):
        return float(found["cost"])


def _chat_row(found: tuple[Situation, list[str]]) -> dict[str, Any]:
    situation, replies = found
    return {
        "id": situation.id,
        "conversation": [{"role": role, "value": text} for role, text in conversation(situation, replies)],
        "context": situation.context,
        "style": situation.style,
        "mode": situation.mode,
        "country": situation.country,
        "language": situation.language,
    }


def read_summary(folder: StoragePath) -> dict[str, Any]:
    """Return the summary of the last start. Raises InputError if there was none."""
    try:
        return json_files.read_sealed(folder / SUMMARY)
    except FileNotFoundError:
        raise InputError(
            "this folder has no result of medray synth chat",
            file=folder,
            key="run.name",
            fix="run medray synth chat first",
        ) from None
