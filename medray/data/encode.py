"""Records to tokens: one task a row of ids and labels, the same for training, evaluation and inference.

A causal model reads one sequence: the prompt (chat template with the assistant's header), then the target and the end
of turn. Prompt and target are tokenized apart, so the ids of the prompt are those that inference will see, and the
loss mask is a boundary between two lists, never a search in padded text. An encoder-decoder reads the prompt as its
source and the target as its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medray.data.records import Distill

ENCODER_VERSION = 2
IGNORED = -100
_SLOT = "\u2402medray-input\u2403"  # stands for the input while a template is taken apart; no corpus holds it


@dataclass(frozen=True)
class EncodeSpec:
    """All that decides the tokens of a record. limits: longest target in tokens, a task each."""

    architecture: Literal["causal", "seq2seq"]
    tasks: tuple[str, ...]
    prompts: dict[str, str]
    system: str | None
    max_input_tokens: int
    limits: dict[str, int]


@dataclass(frozen=True)
class Example:
    """One task of one record.

    input_ids: the tokens that are read. labels: causal: as long as input_ids, IGNORED on the prompt;
    seq2seq: the target's tokens. Both are empty where the record lacks the task.
    """

    input_ids: list[int]
    labels: list[int]
    input_cut: bool
    target_cut: bool

    @property
    def loss_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


ABSENT = Example([], [], False, False)


class Encoder:
    """Encodes records with one tokenizer; made inside the process that uses it."""

    def __init__(self, tokenizer: Any, spec: EncodeSpec) -> None:
        self.tokenizer, self.spec = tokenizer, spec
        self._frames = {task: self._frame(task) for task in spec.tasks}

    def encode(self, records: Sequence[Distill]) -> dict[str, list[Example]]:
        """Examples of every task, in the order of `records`."""
        inputs = self._inputs([record.input for record in records])
        return {task: self._task(task, records, inputs) for task in self.spec.tasks}

    def _task(
        self, task: str, records: Sequence[Distill], inputs: list[tuple[list[int], bool]]
    ) -> list[Example]:
        before, after, end = self._frames[task]
        targets = [target(record, task) for record in records]
        ids = self._ids([text or "" for text in targets])
        limit = self.spec.limits[task] - len(end)
        examples = []
        for text, tokens, (input_ids, input_cut) in zip(targets, ids, inputs, strict=True):
            if not text:
                examples.append(ABSENT)
                continue
            answer = tokens[: max(limit, 0)] + end
            prompt = before + input_ids + after
            if self.spec.architecture == "causal":
                prompt, answer = prompt + answer, [IGNORED] * len(prompt) + answer
            examples.append(Example(prompt, answer, input_cut, len(tokens) > limit))
        return examples

    def _inputs(self, texts: list[str]) -> list[tuple[list[int], bool]]:
        limit = self.spec.max_input_tokens
        return [(ids[:limit], len(ids) > limit) for ids in self._ids(texts)]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Plain text to ids. Strings that look like control tokens stay text: a record cannot open a turn."""
        return self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _frame(self, task: str) -> tuple[list[int], list[int], list[int]]:
        """Ids before the input, after it, and after the target: the same for every record."""
        prompt, eos = self.spec.prompts[task], [self.tokenizer.eos_token_id]
        if self.spec.architecture == "seq2seq" or not self.tokenizer.chat_template:
            begin = [self.tokenizer.bos_token_id] if self._adds_bos() else []
            lead = f"{prompt}: " if self.spec.architecture == "seq2seq" else f"{prompt}:\n"
            after = eos if self.spec.architecture == "seq2seq" else self._special("\n\n")
            return begin + self._special(lead if prompt else ""), after, eos
        turns = [{"role": "user", "content": f"{prompt}:\n{_SLOT}" if prompt else _SLOT}]
        if self.spec.system is not None:
            turns.insert(0, {"role": "system", "content": self.spec.system})
        ask = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = self.tokenizer.apply_chat_template(
            [*turns, {"role": "assistant", "content": _SLOT}], tokenize=False, add_generation_prompt=False
        )
        before, slot, after = ask.partition(_SLOT)
        if not slot or not whole.startswith(ask):
            raise ValueError("the chat template does not begin a conversation with its own prompt")
        return (
            self._special(before),
            self._special(after),
            self._end_of_turn(whole[len(ask) :].partition(_SLOT)[2]),
        )

    def _end_of_turn(self, suffix: str) -> list[int]:
        """The ids that end the assistant's turn: the template's own up to its first special token, else the end."""
        special = set(self.tokenizer.all_special_ids)
        ids = self._special(suffix)
        cut = next((place for place, token in enumerate(ids) if token in special), None)
        return [self.tokenizer.eos_token_id] if cut is None else ids[: cut + 1]

    def _special(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _adds_bos(self) -> bool:
        ids = self.tokenizer("a")["input_ids"]
        return bool(ids) and ids[0] == self.tokenizer.bos_token_id


def target(record: Distill, task: str) -> str | None:
    """The text that `task` shall write for `record`, None where it has none."""
    return record.label if task == "label" else record.rationale
