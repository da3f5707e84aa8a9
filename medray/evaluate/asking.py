"""A model that a user names, and the one way to ask it: with the prompts, limits and end tokens of its training.

`predict`, `eval`, `chat`, `serve` and `icl` ask through this module. A prompt is made by the encoder of training from
the same settings, so it is equal to the ids that preceded the answers in the token shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medray import storage
from medray.config import Config
from medray.config.data import TEMPLATE_FILES
from medray.config.model import ModelConfig
from medray.data.batching.collate import prompts as padded
from medray.data.encode.encoder import NO_ANSWER, Encoder, EncodeSpec, Prompts
from medray.data.records import Distill, Instruction, Message, Origin, Record
from medray.data.shards.preparation import encode_spec, tokenizer_place
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError
from medray.evaluate.decoding import Decoding
from medray.plan.model_config import describe
from medray.storage import StoragePath

if TYPE_CHECKING:
    import torch

    from medray.evaluate.generate import Answer

NOBODY = Origin("", "", "", "")


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedModel:
    """A model that the user named, and how it is asked. It can be sent to other processes.

    weights, tokenizer: folders (local or in a bucket) or hub ids. prompted: whether a single question is the input of a
    record, shown with the prompt of the task; otherwise it is the first turn of a conversation. decoding: that of the
    evaluations of its run, or the config's. tuned: whether the weights are an export of medray.
    """

    weights: str
    tokenizer: str
    spec: EncodeSpec
    prompted: bool
    decoding: Decoding
    tuned: bool

    def check_task(self, task: str) -> None:
        """Raise InputError if the model was not trained for this task."""
        if task not in self.spec.tasks or task == "rejected":
            known = ", ".join(name for name in self.spec.tasks if name != "rejected")
            raise InputError(
                "the model was not trained for this task",
                key="--task",
                value=task,
                fix=f"use one of: {known}",
            )


def asked_export(folder: StoragePath, config: Config | None = None) -> AskedModel:
    """Return the model in an export of medray.

    config: that of its run, for an export of an older version, whose `medray.json` does not say how prompts are made.
    Raises InputError if the folder has no export, or if nothing says how it was trained.
    """
    from medray.models.export.usage import read_usage

    usage = read_usage(folder)
    spec = None if usage is None else usage.encoding
    if spec is None and config is not None:
        if config.data.template.endswith(
            TEMPLATE_FILES
        ):  # the tokenizer of the export has it; the file may be gone
            config = config.model_copy(update={"data": config.data.model_copy(update={"template": "chat"})})
        spec = encode_spec(config, usage.architecture if usage else _architecture(folder))
    if spec is None:
        raise InputError(
            "the export does not say how its prompts are made: an older version of medray wrote it",
            file=folder,
            fix="name the folder of its run instead, or write it again with `medray export`",
        )
    if config is not None:
        decoding = Decoding.of(config.eval.generation)
    else:
        decoding = Decoding.of_export({} if usage is None else usage.generation)
    prompted = bool(spec.prompts.get("label")) if usage is None else usage.records == "prompted"
    return AskedModel(
        weights=str(folder),
        tokenizer=str(folder),
        spec=spec,
        prompted=prompted,
        decoding=decoding,
        tuned=True,
    )


def asked_model(name: str, config: Config) -> AskedModel:
    """Return an untuned model: a folder, a packaged model or a hub id. `config` says how it is asked.

    Raises InputError if there is no such model, or if it cannot write text.
    """
    found = describe(ModelConfig(name=name), 0)
    assert found.folder is not None
    tokenizer = tokenizer_place(config, found.folder)
    if tokenizer is None:
        raise InputError(
            "an untuned model has no tokenizer that was trained on your records",
            key="data.tokenizer",
            value="train",
            fix="use data.tokenizer: model",
        )
    spec = encode_spec(config, found.architecture)
    return AskedModel(
        weights=found.folder,
        tokenizer=tokenizer,
        spec=spec,
        prompted=bool(spec.prompts.get("label")),
        decoding=Decoding.of(config.eval.generation),
        tuned=False,
    )


def _architecture(folder: StoragePath) -> str:
    from medray.models.export import base_of, class_of

    _, config = class_of(base_of(storage.local(folder)))
    return "seq2seq" if config.is_encoder_decoder else "causal"


class Prompter:
    """Makes prompts for one model, without its weights. One thread at a time may use it.

    Raises InputError if the tokenizer or the template cannot be used.
    """

    def __init__(self, asked: AskedModel) -> None:
        self.asked = asked
        self.tokenizer = load_tokenizer(asked.tokenizer)
        self._encoder = Encoder(self.tokenizer, asked.spec)

    def prompts(self, records: Sequence[Record], task: str = "label") -> Prompts:
        """Return the prompts of records, in their order. A record that cannot be asked for the task gets no ids."""
        return self._encoder.prompts(records, task)

    def prompt_ids(self, asked: Record | Sequence[Message], task: str = "label") -> np.ndarray:
        """Return the prompt of a record or of a conversation that ends with a question, int32 [tokens].

        Raises InputError if the template cannot show it.
        """
        record = self.record(asked) if isinstance(asked, Sequence) else asked
        [ids] = self.prompts([record], task).ids
        if not len(ids):
            raise InputError(
                "the template of this model cannot show these messages",
                key="messages",
                fix="begin with a system message or a question, alternate user and assistant, and end with a question",
            )
        return ids

    def messages(self, record: Record, task: str = "label") -> tuple[Message, ...] | None:
        """Return the messages of a prompt, uncut, for a server that has a template of its own; None if there are none."""
        return self._encoder.messages(record, task)

    def with_answers(
        self, record: Record, answers: Sequence[str], task: str = "label"
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (prompt, target) for each answer to a record, int32 token ids. A target has its end token."""
        return self._encoder.with_answers(record, answers, task)

    def record(self, messages: Sequence[Message]) -> Record:
        """Return the record for a conversation. A single question to a prompted model is the input of a record.

        Raises InputError if the last message is not the user's.
        """
        if not messages or messages[-1].role != "user":
            raise InputError(
                "the last message is not a question of the user",
                key="messages",
                fix="end with a message of the role user",
            )
        if self.asked.prompted and len(messages) == 1:
            return Distill(NOBODY, messages[0].content, "")
        return Instruction(NOBODY, (*messages, Message("assistant", NO_ANSWER)))

    def text(self, ids: np.ndarray) -> str:
        """Return a prompt as text, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


class Answerer(Prompter):
    """A loaded model with its prompts. One thread at a time may use it.

    device: default: the GPU of this process, else the CPU.
    """

    def __init__(self, asked: AskedModel, device: torch.device | None = None) -> None:
        import torch

        from medray.models.export import load_export
        from medray.models.generation import keep_protocol

        super().__init__(asked)
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        place = storage.local(asked.weights) if storage.is_remote(asked.weights) else Path(asked.weights)
        self.model: Any = load_export(place, self.device)
        if not asked.tuned:  # an export states how its answers end
            keep_protocol(self.model, self.tokenizer, asked.spec)

    def answers(
        self,
        ids: Sequence[np.ndarray],
        decoding: Decoding | None = None,
        *,
        rows: Sequence[str] | None = None,
        log_probability: bool = False,
        task: str = "label",
    ) -> list[Answer]:
        """Return one answer per prompt. decoding: default: that of the model's run. The rest is as in `generate.answers`."""
        from medray.evaluate.generate import answers

        return answers(
            self.model,
            self.tokenizer,
            padded(ids, self.asked.spec.architecture, self.tokenizer.pad_token_id),
            decoding or self.asked.decoding,
            device=self.device,
            rows=rows,
            log_probability=log_probability,
            task=task,
        )

    def log_probabilities(
        self, ids: Sequence[np.ndarray], targets: Sequence[np.ndarray], task: str = "label"
    ) -> list[float]:
        """Return the log-probability of each target after its prompt, see `generate.log_probabilities`."""
        from medray.evaluate.generate import log_probabilities

        return log_probabilities(
            self.model, ids, targets, pad_id=self.tokenizer.pad_token_id, device=self.device, task=task
        )
