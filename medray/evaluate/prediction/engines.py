"""Engines: what writes the answers to prompts. `transformers` is the reference; the others are used where installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from medray import storage
from medray.backends.build import build
from medray.backends.protocol import Backend, Reply, Request
from medray.backends.protocol import Message as Sent
from medray.backends.wall import check_kinds
from medray.config.backends import BackendConfig
from medray.errors import InputError, RunFailedError
from medray.evaluate.asking import Answerer, AskedModel, Prompter
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer
from medray.evaluate.prediction.rows import Question
from medray.evaluate.sampling import random_numbers

EngineName = Literal["transformers", "vllm", "endpoint"]
ENGINES: tuple[EngineName, ...] = ("transformers", "vllm", "endpoint")


class Engine(Protocol):
    """A loaded model. prompter: makes its prompts."""

    prompter: Prompter

    def answers(
        self, questions: Sequence[Question], decoding: Decoding, *, task: str, log_probability: bool
    ) -> list[Answer]:
        """Return one answer per question, in order. Each question has a prompt."""


class Transformers:
    """The generation of transformers, in batches of prompts of similar length."""

    def __init__(self, asked: AskedModel, batch_size: int) -> None:
        self._answerer, self._batch_size = Answerer(asked), batch_size
        self.prompter: Prompter = self._answerer

    def answers(
        self, questions: Sequence[Question], decoding: Decoding, *, task: str, log_probability: bool
    ) -> list[Answer]:
        # Longest first: a batch that does not fit into memory fails at once.
        order = sorted(range(len(questions)), key=lambda number: -len(questions[number].ids))
        found: dict[int, Answer] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            made = self._answerer.answers(
                [questions[number].ids for number in batch],
                decoding,
                rows=[questions[number].id for number in batch],
                log_probability=log_probability,
                task=task,
            )
            found |= dict(zip(batch, made, strict=True))
        return [found[number] for number in range(len(questions))]


class Vllm:
    """The generation of vLLM, which forms its own batches. Not proven: no machine of the tests has it.

    An adapter is given to vLLM as it is, without merging. Sampling draws by vLLM's own numbers, from a seed per row.
    """

    def __init__(self, asked: AskedModel) -> None:
        vllm: Any = importlib.import_module("vllm")

        from medray.models.export import base_of

        self.prompter = Prompter(asked)
        folder = storage.local(asked.weights) if storage.is_remote(asked.weights) else Path(asked.weights)
        adapter = (folder / "adapter_config.json").exists()
        options: dict[str, Any] = {"enable_lora": True, "max_lora_rank": 256} if adapter else {}
        self._vllm = vllm
        self._model = vllm.LLM(model=base_of(folder), tokenizer=asked.tokenizer, **options)
        self._adapter: Any = None
        if adapter:
            lora: Any = importlib.import_module("vllm.lora.request")
            self._adapter = lora.LoRARequest("adapter", 1, str(folder))

    def answers(
        self, questions: Sequence[Question], decoding: Decoding, *, task: str, log_probability: bool
    ) -> list[Answer]:
        settings = [
            self._vllm.SamplingParams(
                max_tokens=decoding.max_new_tokens,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                stop=list(decoding.stop) or None,
                seed=int(random_numbers(decoding.seed, question.id, 1)[0] * 2**31)
                if decoding.samples
                else None,
                logprobs=0 if log_probability else None,
            )
            for question in questions
        ]
        asked = [{"prompt_token_ids": question.ids.tolist()} for question in questions]
        options = {} if self._adapter is None else {"lora_request": self._adapter}
        found = []
        for output in self._model.generate(asked, settings, use_tqdm=False, **options):
            answer = output.outputs[0]
            found.append(
                Answer(
                    text=answer.text.strip(),
                    tokens=len(answer.token_ids),
                    finish="stop" if answer.finish_reason == "stop" else "length",
                    log_probability=float(answer.cumulative_logprob) if log_probability else None,
                )
            )
        return found


class ServerEngine:
    """An OpenAI-compatible server, which gets the messages of a prompt and has a template and limits of its own.

    The named model only says how the messages are made. A row that the server refuses for good has an empty answer.
    """

    def __init__(self, asked: AskedModel, backend: Backend) -> None:
        self.prompter, self._backend = Prompter(asked), backend

    def answers(
        self, questions: Sequence[Question], decoding: Decoding, *, task: str, log_probability: bool
    ) -> list[Answer]:
        """Raises RunFailedError if the server does not answer; InputError if it may not receive text of records."""
        requests = [
            self._request(number, question, decoding, task) for number, question in enumerate(questions)
        ]
        found: dict[int, Answer] = {}
        for reply in self._backend.answers(requests):
            if isinstance(reply, Reply):
                found[int(reply.key)] = Answer(
                    text=reply.text.strip(),
                    tokens=reply.completion_tokens or 0,
                    finish="length" if reply.finish_reason == "length" else "stop",
                )
            elif reply.kind == "refused":
                found[int(reply.key)] = Answer(text="", tokens=0, finish="refused")
            elif reply.kind == "not_allowed":
                raise InputError(reply.message, key="may_receive", fix="see docs/predict.md, Engines")
            else:
                raise RunFailedError(
                    f"{self._backend.name}: {reply.message}; finished parts are kept. Fix: run the same command again"
                )
        return [found[number] for number in range(len(questions))]

    def _request(self, number: int, question: Question, decoding: Decoding, task: str) -> Request:
        if question.record is None:
            raise InputError(
                "a server cannot be asked for rows of token shards, which hold ids",
                key="--engine",
                value="endpoint",
                fix="name the file of the rows",
            )
        messages = self.prompter.messages(question.record, task) or ()
        seed = int(random_numbers(decoding.seed, question.id, 1)[0] * 2**31) if decoding.samples else None
        return Request(
            key=str(number),
            messages=tuple(Sent(role=each.role, content=each.content) for each in messages),
            holds="records",
            max_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p if decoding.top_p < 1 else None,
            seed=seed,
            stop=decoding.stop,
        )


def check_engine(
    name: str,
    asked: AskedModel,
    decoding: Decoding,
    backend: BackendConfig | None = None,
    *,
    log_probability: bool = False,
) -> None:
    """Raise InputError if an engine is not available here, or cannot do what is asked."""
    if (name == "endpoint") != (backend is not None):
        raise InputError(
            "the engine endpoint needs a file that describes the server, and no other engine reads one",
            key="--backend",
            fix="use --engine endpoint --backend server.yaml, with base_url and model in the file",
        )
    if name == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise InputError(
                "vLLM is not installed",
                key="--engine",
                value=name,
                fix="run `pip install vllm` on a machine with a GPU, or use --engine transformers",
            )
        if decoding.num_beams > 1 or decoding.base_settings or asked.spec.architecture == "seq2seq":
            raise InputError(
                "beams, base_settings and encoder-decoders are not supported by this engine",
                key="--engine",
                value=name,
                fix="use --engine transformers",
            )
    elif backend is not None:
        check_kinds(backend, {"records": 1}, "backend")
        build(backend, "backend")  # its key and package
        if decoding.num_beams > 1 or decoding.base_settings or log_probability:
            raise InputError(
                "beams, base_settings and log-probabilities are not supported by this engine",
                key="--engine",
                value=name,
                fix="use --engine transformers, or set eval.generation.num_beams=1",
            )
    elif name not in ENGINES:
        raise InputError(
            "there is no such engine", key="--engine", value=name, fix=f"use one of: {', '.join(ENGINES)}"
        )


def load_engine(
    name: EngineName, asked: AskedModel, batch_size: int, backend: BackendConfig | None = None
) -> Engine:
    """Load a model with an engine, in the process that uses it."""
    if backend is not None:
        return ServerEngine(asked, build(backend, "backend"))
    return Vllm(asked) if name == "vllm" else Transformers(asked, batch_size)
