"""Engines: what writes the answers to prompts. `transformers` is the reference; the others are used where installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from medray import storage
from medray.errors import InputError
from medray.evaluate.asking import Answerer, AskedModel, Prompter
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer

EngineName = Literal["transformers", "vllm"]
ENGINES: tuple[EngineName, ...] = ("transformers", "vllm")


class Engine(Protocol):
    """A loaded model. prompter: makes its prompts."""

    prompter: Prompter

    def answers(
        self,
        ids: Sequence[np.ndarray],
        decoding: Decoding,
        *,
        rows: Sequence[str],
        task: str,
        log_probability: bool,
    ) -> list[Answer]:
        """Return one answer per prompt, in order. rows: id of each row, which decides what is drawn for it."""


class Transformers:
    """The generation of transformers, in batches of prompts of similar length."""

    def __init__(self, asked: AskedModel, batch_size: int) -> None:
        self._answerer, self._batch_size = Answerer(asked), batch_size
        self.prompter: Prompter = self._answerer

    def answers(
        self,
        ids: Sequence[np.ndarray],
        decoding: Decoding,
        *,
        rows: Sequence[str],
        task: str,
        log_probability: bool,
    ) -> list[Answer]:
        # Longest first: a batch that does not fit into memory fails at once.
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        found: dict[int, Answer] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            made = self._answerer.answers(
                [ids[number] for number in batch],
                decoding,
                rows=[rows[number] for number in batch],
                log_probability=log_probability,
                task=task,
            )
            found |= dict(zip(batch, made, strict=True))
        return [found[number] for number in range(len(ids))]


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
        self,
        ids: Sequence[np.ndarray],
        decoding: Decoding,
        *,
        rows: Sequence[str],
        task: str,
        log_probability: bool,
    ) -> list[Answer]:
        from medray.evaluate.sampling import random_numbers

        settings = [
            self._vllm.SamplingParams(
                max_tokens=decoding.max_new_tokens,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                stop=list(decoding.stop) or None,
                seed=int(random_numbers(decoding.seed, row, 1)[0] * 2**31) if decoding.samples else None,
                logprobs=0 if log_probability else None,
            )
            for row in rows
        ]
        asked = [{"prompt_token_ids": prompt.tolist()} for prompt in ids]
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


def check_engine(name: str, asked: AskedModel, decoding: Decoding) -> None:
    """Raise InputError if an engine is not available here, or cannot do what is asked."""
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
    elif name not in ENGINES:
        raise InputError(
            "endpoints are not supported by this version"
            if name == "endpoint"
            else "there is no such engine",
            key="--engine",
            value=name,
            fix=f"use one of: {', '.join(ENGINES)}",
        )


def load_engine(name: EngineName, asked: AskedModel, batch_size: int) -> Engine:
    """Load a model with an engine, in the process that uses it."""
    return Vllm(asked) if name == "vllm" else Transformers(asked, batch_size)
