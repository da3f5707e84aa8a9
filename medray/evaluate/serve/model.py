"""The model of a server: its prompts, its limits in tokens, and the batches in which it answers."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from medray.errors import InputError
from medray.evaluate.asking import Answerer, AskedModel, Prompter
from medray.evaluate.conversation import takes_turns
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer
from medray.evaluate.progress import Row, write
from medray.evaluate.room import Room, room_of
from medray.evaluate.serve.batcher import Batcher, Job
from medray.evaluate.serve.limits import Limits
from medray.evaluate.serve.question import Question
from medray.evaluate.serve.refusal import RefusedError, wrong


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A tokenized question. limit: longest answer in tokens. cut: whether the input was cut as in training."""

    ids: np.ndarray
    limit: int
    cut: bool


class ServedModel:
    """A loaded model that answers checked questions in batches.

    name: the name that requests use. One thread makes prompts and another one asks the model, each with its own
    tokenizer, because a tokenizer must not be used by two threads at once.
    """

    def __init__(self, name: str, answerer: Answerer, limits: Limits) -> None:
        self.name, self.limits = name, limits
        self.asked: AskedModel = answerer.asked
        self._answerer = answerer
        self._prompter = Prompter(answerer.asked)
        self._room: Room = room_of(answerer.model)
        self._longest_token = max(map(len, self._prompter.tokenizer.get_vocab()))
        self._prompts = ThreadPoolExecutor(1, thread_name_prefix="medray-prompts")
        self._batcher = Batcher(self._write, most=limits.batch, waiting=limits.waiting)
        self.answered = 0

    @property
    def waiting(self) -> int:
        """Return how many requests wait for a batch."""
        return self._batcher.waiting

    @property
    def healthy(self) -> bool:
        """Return whether the model still answers."""
        return self._batcher.healthy

    @property
    def largest_batch(self) -> int:
        """Return the number of requests in the largest batch so far."""
        return self._batcher.largest

    async def prompt(self, question: Question) -> Prompt:
        """Return the prompt of a question. Raises RefusedError if the model cannot answer it."""
        self._check(question)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._prompts, functools.partial(self._tokenized, question)
            )
        except InputError as error:
            raise wrong("messages", error.what) from None

    def job(self, question: Question, prompt: Prompt, listener: Callable[[str], None] | None = None) -> Job:
        """Return the job of a question, not yet submitted. listener: called in another thread."""
        own = self.asked.decoding
        samples = question.temperature > 0
        decoding = Decoding(
            max_new_tokens=1,  # each row has its own limit
            num_beams=1 if samples else own.num_beams,
            base_settings=own.base_settings,
            temperature=question.temperature,
            top_p=question.top_p,
        )
        name = secrets.token_hex(16) if question.seed is None else f"seed {question.seed}"
        return Job(
            ids=prompt.ids,
            row=Row(limit=prompt.limit, stop=question.stop, listener=listener),
            decoding=decoding,
            name=name,
            task=question.task,
        )

    def submit(self, job: Job) -> asyncio.Future[Answer]:
        """Queue a job and return its answer, for the running event loop. Raises RefusedError if too many wait."""
        self._batcher.submit(job)
        return asyncio.wrap_future(job.answer)

    def close(self) -> None:
        """Answer what waits, and end the threads."""
        self._batcher.close()
        self._prompts.shutdown()

    def _check(self, question: Question) -> None:
        """Check what needs no tokens."""
        if question.model is not None and question.model != self.name:
            raise RefusedError(
                404,
                "there is no such model here; GET /v1/models lists its name",
                param="model",
                code="model_not_found",
            )
        if question.limit is not None and question.limit > self.limits.answer_tokens:
            raise wrong("max_tokens", f"at most {self.limits.answer_tokens} tokens are allowed")
        try:
            self.asked.check_task(question.task)
        except InputError as error:
            raise wrong("task", f"{error.what}; {error.fix}") from None
        if len(question.messages) > 1 and not takes_turns(self.asked):
            raise wrong(
                "messages",
                "this model was trained on single inputs: send one message, of the role user, without a system message",
            )
        if question.cut or (longest := self._longest_prompt()) is None:
            return
        # A token has at most this many characters, so a longer text cannot fit, whatever its tokens are.
        characters = sum(len(message.content) for message in question.messages)
        if characters > longest * self._longest_token:
            raise self._too_long(f"{characters} characters")

    def _tokenized(self, question: Question) -> Prompt:
        found = self._prompter.prompts([self._prompter.record(question.messages)], question.task)
        [ids], [cut] = found.ids, found.cut
        if not len(ids):
            raise wrong("messages", "the template of this model cannot show these messages")
        if cut and not question.cut:
            raise self._too_long("more tokens than that")
        wanted = question.limit or min(self.asked.decoding.max_new_tokens, self.limits.answer_tokens)
        limit = self._room.limit(len(ids), wanted)
        if limit < 1:
            raise self._too_long(f"{len(ids)} tokens, which leaves no room for an answer")
        if question.limit is not None and limit < question.limit:
            raise wrong(
                "max_tokens",
                f"the prompt has {len(ids)} tokens, so the context has room for an answer of {limit} tokens",
                "context_length_exceeded",
            )
        return Prompt(ids=ids, limit=limit, cut=cut)

    def _longest_prompt(self) -> int | None:
        """Return the longest prompt of training in tokens, about: with its template it is a little longer."""
        spec = self.asked.spec
        return spec.max_prompt_tokens or spec.max_input_tokens

    def _too_long(self, have: str) -> RefusedError:
        return wrong(
            "messages",
            f"the input is too long: prompts of this model have at most {self._longest_prompt()} tokens, and it has {have}. "
            "Shorten it, or send it to /predict with cut: true, which cuts it as in training",
            "context_length_exceeded",
        )

    def _write(self, jobs: Sequence[Job]) -> list[Answer]:
        first = jobs[0]
        found = write(
            self._answerer,
            [job.ids for job in jobs],
            [job.row for job in jobs],
            first.decoding,
            names=[job.name for job in jobs],
            task=first.task,
        )
        self.answered += len(found)
        return found
