"""What each task of a record reads and writes, as text: the same for training, evaluation and inference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from medray.config.method_specs import split_task
from medray.data.records import Distill, Extraction, Instruction, Message, Preference, Record, TwoStep

EMPTY_LIST = "[]"  # what a document without an entity that is asked for has as its answer
NO_TEXT = "None"  # what a task of one key writes where the document does not say
KEY_WORDS = (
    "Key information"  # what stands before key words in an input that has no place of its own for them
)


@dataclass(frozen=True)
class EncodeSpec:
    """All that decides the tokens of a record.

    tasks: label, rationale, rationale/<key>, rejected. prompts: the instruction of a task; that of
    rationale/<key> may be missing, then it is the rationale's with the key in place of `{key}`, or after it.
    prompts_by_lang: those of tasks that rows of a language have in place of the general ones. extraction_prompt:
    what a document with entities is asked for its label in place of all these; None: it is asked as any other row.
    template: a name of `config.data.TEMPLATES`, a Jinja file, or what `templates.read_template` makes of one.
    train_turns: the assistant's turns that carry loss. train_on: all: the prompt carries loss too (causal).
    limits: longest target in tokens, its end token included, a task each; rationale's is that of rationale/<key>.
    max_input_tokens: longest input of a prompted record, or longest conversation before its last answer.
    skip_null: a key without a value has no target, in place of NO_TEXT. draw_seed: of a list of rationales one is the
    target, drawn by (seed, id of the record); None: all of them, a line each. appends_keys: the label's input has the
    rationale in it, as key words that were found first. required: answers without which a row is counted as cut.
    whole: answers that are left out where they are longer than their limit, in place of being cut.
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
        """Whether the template has a place for an instruction apart from the input."""
        return self.template == "alpaca" or self.template.startswith("legacy/")


@dataclass(frozen=True)
class Turn:
    """lead: from the configuration: may hold control tokens and is never cut. text: the record's; None: it has none."""

    role: str
    lead: str
    text: str | None


@dataclass(frozen=True)
class PromptAndAnswer:
    """What stands before an answer, and the answer.

    conversation: the turns are the record's own, so that all of them count as input and old ones may be left out;
    else one prompt with one input. last_only: loss on the last answer alone, whatever the spec says of turns.
    thinking: the answer begins with reasoning, as the template's thinking mode writes it; earlier answers, which the
    template shows without theirs, then carry no loss.
    """

    turns: tuple[Turn, ...]
    answer: str
    conversation: bool = False
    last_only: bool = False
    thinking: bool = False


def reading(record: Record, task: str, spec: EncodeSpec) -> PromptAndAnswer | None:
    """What `task` reads and writes of `record`; None where the record has nothing to write for it."""
    answer = target(record, task, spec)
    if not answer:
        return None
    if isinstance(record, Preference):
        return PromptAndAnswer(_conversation(record.prompt, spec), answer, conversation=True, last_only=True)
    if isinstance(record, Instruction):
        return PromptAndAnswer(_conversation(record.messages[:-1], spec), answer, conversation=True)
    prompt = spec.extraction_prompt if isinstance(record, Extraction) and task == "label" else None
    if prompt is None:
        prompt = spec.prompt(task, record.origin.lang)
    return PromptAndAnswer(_prompted(_input(record, task, spec), prompt, spec), answer)


def target(record: Record, task: str, spec: EncodeSpec) -> str | None:
    """The text that `task` shall write for `record`; None or "" where it has none."""
    answer, key = split_task(task)
    if answer == "rationale":
        return _rationale(record, key, spec)
    if answer == "rejected":
        return record.rejected if isinstance(record, Preference) else None
    return reference(record, spec) if task == "label" else None


def reference(record: Record, spec: EncodeSpec) -> str:
    """The text that a prediction for `record` is compared with."""
    if isinstance(record, Distill | TwoStep):
        return record.label
    if isinstance(record, Instruction):
        return record.messages[-1].content
    if isinstance(record, Preference):
        return record.chosen
    return extraction_answer(record, spec.extraction_answer, spec.extraction_types)


def extraction_prompt(answer: Literal["entities", "relations"], types: tuple[str, ...]) -> str:
    """What asks for `extraction_answer` of the same arguments."""
    if answer == "entities":
        kind = " and ".join(types) or "entity"
        return f"List every {kind} that the text names, as a JSON list of strings"
    by = f" by {' or '.join(types)}" if types else ""
    return f"List every pair of entities that the text relates{by}, as a JSON list of [first, second]"


def extraction_answer(
    record: Extraction, answer: Literal["entities", "relations"], types: tuple[str, ...]
) -> str:
    """A JSON list of the entities' texts, or of [first, second] pairs of them; each once, ignoring case, in order."""
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
    """A number below `count` that depends on the seed and the record's id alone."""
    digest = hashlib.blake2b(f"{seed} {record.origin.id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % max(count, 1)


def _input(record: Distill | TwoStep | Extraction, task: str, spec: EncodeSpec) -> str:
    """Key words stand where they are kept: before an input whose end is cut; in the place that a second input ends with."""
    keys = _rationale(record, "", spec) if spec.appends_keys and task == "label" else None
    if isinstance(record, Distill):
        return f"{KEY_WORDS}: {keys}\n\n{record.input}" if keys else record.input
    if isinstance(record, TwoStep):
        second = f"{record.second_input} {keys}" if keys else record.second_input
        return second if task == "label" else record.first_input
    return " ".join(record.passages)


def _prompted(text: str, prompt: str, spec: EncodeSpec) -> tuple[Turn, ...]:
    if spec.architecture == "seq2seq":
        return (Turn("user", f"{prompt}: " if prompt else "", text),)
    system = spec.system
    if spec.instructs and prompt:
        system, prompt = f"{system}\n{prompt}" if system else prompt, ""
    user = Turn("user", f"{prompt}:\n" if prompt else "", text)
    return (user,) if system is None else (Turn("system", system, None), user)


def _conversation(messages: tuple[Message, ...], spec: EncodeSpec) -> tuple[Turn, ...]:
    turns = tuple(Turn(message.role, "", message.content) for message in messages)
    if spec.system is None or (turns and turns[0].role == "system"):
        return turns
    return (Turn("system", spec.system, None), *turns)
