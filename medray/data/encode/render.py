"""Prompts and answers of each task as text, the same for training, evaluation and inference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from medray.config.data import DFPO_TEMPLATES
from medray.config.method_specs import split_task
from medray.data.records import Distill, Extraction, Instruction, Message, Preference, Record, TwoStep

EMPTY_LIST = "[]"  # the answer of a document without an entity of the requested types
NO_TEXT = "None"  # the answer of the task of one key if the document does not say
FIRST_TURN = "legacy/taiyi"  # the template that leaves out all but the first question and answer
KEY_WORDS = "Key information"  # heading of key words in an input that has no field of its own for them


@dataclass(frozen=True)
class EncodeSpec:
    """All settings that decide how a record becomes tokens.

    tasks: names of the tasks: label, rationale, rationale/<key>, rejected. prompts: the instruction of each task. If
    rationale/<key> has none, it uses that of rationale, with the key instead of `{key}` or appended to it.
    prompts_by_lang: prompts that replace the general ones for rows of a language. extraction_prompt: the prompt for
    the label of a document with entities, which replaces all others; None: such a document has the prompt of any other
    row.
    template: a name in `config.data.TEMPLATES`, a Jinja file, or the text that `templates.read_template` returns.
    train_turns: which turns of the assistant carry loss. train_on: `all` means that the prompt carries loss too
    (causal models only).
    limits: longest target of each task in tokens, including its end token; rationale/<key> uses that of rationale
    unless it has its own. max_input_tokens: longest input of a prompted record, or longest conversation before its
    last answer. max_prompt_tokens: longest prompt with its template, which then loses its beginning; None: the limit is
    max_input_tokens.
    skip_null: a key without a value has no target; otherwise its target is NO_TEXT. draw_seed: if a record has a list
    of rationales, the target is one of them, drawn by (seed, id of the record); None: all of them, one per line.
    appends_keys: the input of the label also contains the record's own key words (method.variant: two_step).
    key_column: which of its texts these are: its rationale, or the key words that a first model wrote. required: tasks
    for which a missing text is counted as cut; the row stays. whole: tasks whose answers are left out instead of cut if
    they are too long.
    """

    architecture: Literal["causal", "seq2seq"]
    tasks: tuple[str, ...]
    prompts: dict[str, str]
    system: str | None
    template: str
    train_turns: Literal["all", "last"]
    train_on: Literal["completion", "all"]
    extraction_answer: Literal["entities", "relations"]
    extraction_types: tuple[str, ...]
    max_input_tokens: int
    limits: dict[str, int]
    prompts_by_lang: dict[str, dict[str, str]] = field(default_factory=dict)
    extraction_prompt: str | None = None
    skip_null: bool = True
    draw_seed: int | None = None
    appends_keys: bool = False
    required: tuple[str, ...] = ("label",)
    whole: tuple[str, ...] = ()
    max_prompt_tokens: int | None = None
    key_column: Literal["rationale", "key_words"] = "rationale"

    def limit(self, task: str) -> int:
        return self.limits[task] if task in self.limits else self.limits[split_task(task)[0]]

    def prompt(self, task: str, lang: str = "") -> str:
        kind, name = split_task(task)
        prompts = self.prompts | self.prompts_by_lang.get(lang, {})
        if task in prompts or not name:
            return prompts[task]
        prompt = prompts[kind]
        return prompt.replace("{key}", name) if "{key}" in prompt else f"{prompt} ({name})"

    @property
    def instructs(self) -> bool:
        """Return whether the template writes an instruction separately from the input."""
        return self.template == "alpaca" or (
            self.template.startswith("legacy/") and self.template not in DFPO_TEMPLATES
        )


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    lead: text from the configuration, before the record's text; it may contain control tokens and is never cut. text:
    text of the record, or None.
    """

    role: str
    lead: str
    text: str | None


@dataclass(frozen=True)
class PromptAndAnswer:
    """The turns before an answer, and the answer.

    conversation: whether the turns are the record's own, so that all of them count as input and old ones may be left
    out; otherwise there is one prompt with one input. last_only: whether only the last answer carries loss, whatever
    the spec says about turns. thinking: whether the answer begins with reasoning, as the template's thinking mode
    writes it; earlier answers then carry no loss, because the template shows them without their reasoning.
    """

    turns: tuple[Turn, ...]
    answer: str
    conversation: bool = False
    last_only: bool = False
    thinking: bool = False


def reading(
    record: Record, task: str, spec: EncodeSpec, *, answer: str | None = None
) -> PromptAndAnswer | None:
    """Return prompt and answer of one task of a record; None if the record has no answer for the task.

    answer: used instead of the record's own.
    """
    if answer is None:
        answer = target(record, task, spec)
    if not answer:
        return None
    if isinstance(record, Preference):
        return PromptAndAnswer(_conversation(record.prompt, spec), answer, conversation=True, last_only=True)
    if isinstance(record, Instruction):
        return PromptAndAnswer(_conversation(_messages(record, spec)[:-1], spec), answer, conversation=True)
    prompt = spec.extraction_prompt if isinstance(record, Extraction) and task == "label" else None
    if prompt is None:
        prompt = spec.prompt(task, record.origin.lang)
    return PromptAndAnswer(_prompted(_input(record, task, spec), prompt, spec), answer)


def target(record: Record, task: str, spec: EncodeSpec) -> str | None:
    """Return the target text of one task of a record; None or "" if the record has none."""
    answer, key = split_task(task)
    if answer == "rationale":
        return _rationale(record, key, spec)
    if answer == "rejected":
        return record.rejected if isinstance(record, Preference) else None
    return reference(record, spec) if task == "label" else None


def reference(record: Record, spec: EncodeSpec) -> str:
    """Return the reference answer of a record, with which a prediction is compared."""
    if isinstance(record, Distill | TwoStep):
        return record.label
    if isinstance(record, Instruction):
        return _messages(record, spec)[-1].content
    if isinstance(record, Preference):
        return record.chosen
    return extraction_answer(record, spec.extraction_answer, spec.extraction_types)


def extraction_prompt(answer: Literal["entities", "relations"], types: tuple[str, ...]) -> str:
    """Return the prompt that asks for the answer of `extraction_answer` with the same arguments."""
    if answer == "entities":
        kind = " and ".join(types) or "entity"
        return f"List every {kind} that the text names, as a JSON list of strings"
    by = f" by {' or '.join(types)}" if types else ""
    return f"List every pair of entities that the text relates{by}, as a JSON list of [first, second]"


def extraction_answer(
    record: Extraction, answer: Literal["entities", "relations"], types: tuple[str, ...]
) -> str:
    """Return the answer for a document: a JSON list of entity texts, or of [first, second] pairs of related texts.

    Each occurs once (ignoring case), in the order of the document.
    """
    names = {entity.id: entity.text[0] for entity in record.entities if entity.text}
    if answer == "entities":
        found: Iterable[tuple[str, ...]] = (
            (names[entity.id],)
            for entity in record.entities
            if entity.id in names and (not types or entity.type in types)
        )
    else:
        found = (
            (names[relation.first], names[relation.second])
            for relation in record.relations
            if relation.first in names and relation.second in names and (not types or relation.type in types)
        )
    distinct: dict[tuple[str, ...], tuple[str, ...]] = {}
    for item in found:
        distinct.setdefault(tuple(part.casefold() for part in item), item)
    made = [item[0] if answer == "entities" else list(item) for item in distinct.values()]
    return json.dumps(made, ensure_ascii=False)


def _rationale(record: Record, key: str, spec: EncodeSpec) -> str | None:
    found = record.rationale if isinstance(record, Distill | TwoStep) else None
    if isinstance(found, Mapping):
        if key:
            return found.get(key) or (None if spec.skip_null else NO_TEXT)
        return "\n".join(f"{name}: {text}" for name, text in found.items() if text)
    if key:
        return None
    if found is None or isinstance(found, str):
        return found
    return "\n".join(found) if spec.draw_seed is None else found[_draw(spec.draw_seed, record, len(found))]


def _draw(seed: int, record: Record, count: int) -> int:
    """Return a number below `count` that depends only on the seed and the record's id."""
    digest = hashlib.blake2b(f"{seed} {record.origin.id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % max(count, 1)


def _input(record: Distill | TwoStep | Extraction, task: str, spec: EncodeSpec) -> str:
    """Return the input of a task.

    Key words precede an input, because its end may be cut, and follow a second input, which asks for them at its end.
    """
    keys = key_words(record, spec) if spec.appends_keys and task == "label" else None
    if isinstance(record, Distill):
        return f"{KEY_WORDS}: {keys}\n\n{record.input}" if keys else record.input
    if isinstance(record, TwoStep):
        second = f"{record.second_input} {keys}" if keys else record.second_input
        return second if task == "label" else record.first_input
    return " ".join(record.passages)


def key_words(record: Record, spec: EncodeSpec) -> str | None:
    """Return the key words that the label's input contains; None or "" if the record has none."""
    if spec.key_column == "rationale":
        return _rationale(record, "", spec)
    return record.key_words if isinstance(record, Distill | TwoStep) else None


def _prompted(text: str, prompt: str, spec: EncodeSpec) -> tuple[Turn, ...]:
    if spec.architecture == "seq2seq":
        return (Turn("user", f"{prompt}: " if prompt else "", text),)
    system = spec.system
    if spec.instructs and prompt:
        system, prompt = f"{system}\n{prompt}" if system else prompt, ""
    user = Turn("user", f"{prompt}:\n" if prompt else "", text)
    return (user,) if system is None else (Turn("system", system, None), user)


def _messages(record: Instruction, spec: EncodeSpec) -> tuple[Message, ...]:
    """Return the messages that the template shows, the last of which is an answer."""
    if spec.template != FIRST_TURN:
        return record.messages
    first = next(at for at, message in enumerate(record.messages) if message.role == "assistant")
    return record.messages[: first + 1]


def _conversation(messages: tuple[Message, ...], spec: EncodeSpec) -> tuple[Turn, ...]:
    turns = tuple(Turn(message.role, "", message.content) for message in messages)
    if spec.system is None or (turns and turns[0].role == "system"):
        return turns
    return (Turn("system", spec.system, None), *turns)
