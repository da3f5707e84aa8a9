"""The model that answers: named by `model.name`, and asked like the models of `medray predict`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from medray import storage
from medray.config.icl import IclFile
from medray.config.model import ModelConfig
from medray.data.encode.encoder import NO_ANSWER
from medray.data.records import Instruction, Message
from medray.errors import InputError
from medray.evaluate.asking import NOBODY, Answerer, AskedModel, Prompter, asked_export, asked_model
from medray.evaluate.decoding import Decoding
from medray.icl.index.encoder import folder_digest
from medray.icl.prompting import Count, Prompt
from medray.plan.model_config import described_offline
from medray.plan.model_name import check_exists
from medray.train.run_folder.files import CONFIG
from medray.train.run_folder.finished_run import finished_run

LONGEST_PROMPT = 131_072  # tokens; the limits of training do not hold for prompts with examples
REVISION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """The answer to one prompt. finish: `stop` or `length`, see `generate.Answer`."""

    id: str
    text: str
    tokens: int
    finish: str


class Model(Protocol):
    """The interface of what answers prompts. identity: hash of what decides its answers."""

    @property
    def identity(self) -> str: ...
    @property
    def count(self) -> Count | None:
        """Return the function that counts the tokens of a prompt, None if nothing counts."""

    def context(self) -> int | None:
        """Return the largest number of tokens of prompt and answer together, None if that is not known."""

    def answers(
        self, prompts: Sequence[Prompt], progress: Callable[[int, int], None] = ...
    ) -> Iterator[list[Said]]:
        """Yield the answers to prompts in batches, in any order."""


def named_model(file: IclFile) -> AskedModel:
    """Return the model of `model.name`: a run, an export, or an untuned model. Raises InputError if there is none."""
    from medray.models.export.usage import FILE

    name = file.model.name
    folder = storage.at(name)
    if (folder / CONFIG).exists():
        run = finished_run(name)
        found = asked_export(run.export, run.config)
    elif (folder / FILE).exists():
        found = asked_export(folder)
    else:
        check_exists(name, "model.name")
        found = asked_model(name, file.as_config())
    spec = replace(found.spec, max_input_tokens=LONGEST_PROMPT, max_prompt_tokens=None)
    decoding = Decoding(max_new_tokens=file.answers.max_new_tokens, num_beams=file.answers.num_beams)
    return replace(found, spec=spec, decoding=decoding)


class LocalModel:
    """A model on this machine. Its tokenizer is loaded for the first prompt, its weights for the first answer."""

    def __init__(self, asked: AskedModel, batch_size: int) -> None:
        self.asked, self._batch_size = asked, batch_size

    @cached_property
    def identity(self) -> str:
        """Return a hash of the weights, the way they are asked, and the decoding."""
        place = Path(self.asked.weights)
        weights = folder_digest(str(place.resolve())) if place.is_dir() else self.asked.weights
        values = [REVISION, weights, asdict(self.asked.spec), asdict(self.asked.decoding)]
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:32]

    @cached_property
    def _prompter(self) -> Prompter:
        return Prompter(self.asked)

    @cached_property
    def _answerer(self) -> Answerer:
        from transformers.utils import logging

        logging.disable_progress_bar()
        return Answerer(self.asked)

    def context(self) -> int | None:
        """Return the largest number of tokens of prompt and answer together, None if the model does not say."""
        if self.asked.tuned:
            from medray.models.export import base_of, class_of

            _, config = class_of(base_of(storage.local(self.asked.weights)))
            found = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        else:
            found = described_offline(ModelConfig(name=self.asked.weights), 0).config.get(
                "max_position_embeddings"
            )
        return found if isinstance(found, int) and found > 0 else None

    def count(self, messages: Sequence[Message]) -> int:
        """Return the length of a prompt in tokens, with those of the template."""
        return len(_ids(self._prompter, messages))

    def answers(
        self, prompts: Sequence[Prompt], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[list[Said]]:
        """Yield the answers of each batch. Prompts of similar length share a batch, the longest first."""
        prepared = sorted(
            ((_ids(self._prompter, prompt.messages), prompt) for prompt in prompts),
            key=lambda each: -len(each[0]),
        )
        for start in range(0, len(prepared), self._batch_size):
            batch = prepared[start : start + self._batch_size]
            found = self._answerer.answers([ids for ids, _ in batch], rows=[prompt.id for _, prompt in batch])
            yield [
                Said(id=prompt.id, text=answer.text, tokens=answer.tokens, finish=answer.finish)
                for (_, prompt), answer in zip(batch, found, strict=True)
            ]
            progress(min(start + self._batch_size, len(prepared)), len(prepared))


def _ids(prompter: Prompter, messages: Sequence[Message]) -> np.ndarray:
    record = Instruction(NOBODY, (*messages, Message("assistant", NO_ANSWER)))
    [ids] = prompter.prompts([record]).ids
    if not len(ids):
        raise InputError(
            "the template of this model cannot show prompts of several turns"
            if len(messages) > 1
            else "the template of this model cannot show a prompt",
            key="icl.as_turns" if len(messages) > 1 else "model.template",
            fix="set icl.as_turns: false" if len(messages) > 1 else "use model.template: chat or plain",
        )
    return ids
