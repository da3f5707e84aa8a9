"""Instructions for using exported weights: `medray.json` in every export folder, and a runnable example for its card.

The prompts come from the run's configuration. They are compared with a few rows of the run: a corpus of conversations
has no prompt, because conversations are shown to the model unchanged. The file contains no text of a record.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medray import storage
from medray.config.method_specs import split_task
from medray.config.model import PACKAGED_MODELS, ModelConfig
from medray.data.encode.render import EncodeSpec, reading
from medray.data.encode.templates import Template
from medray.data.encode.text_ids import TextIds
from medray.data.records import Distill, Origin
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError, printable
from medray.storage import StoragePath

FILE, SCHEMA = "medray.json", 1
ROWS = 16  # number of rows of a run with which the prompts are compared
_MARK = "\u2402input\u2403"  # replaces the input while a prompt is rendered; no corpus contains it
# Settings of generation_config or config that decide how a model's text begins.
_BEGINS = ("decoder_start_token_id", "forced_bos_token_id", "forced_decoder_ids")
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

Format = Literal["adapter", "full", "merged", "nf4", "gguf"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Base(_Part):
    """The origin of the base weights of an export.

    kind: `hub` (name is the model's id there), `package` (a model that a Python package contains), `folder` (name is
    the path in the run's config) or `random` (the weights were initialized at random). revision, licence: None if
    unknown.
    """

    name: str
    kind: Literal["hub", "package", "folder", "random"]
    revision: str | None = None
    licence: str | None = None


class Question(_Part):
    """The prompt of one task.

    The whole text is `before` + input + `after`, tokenized without further special tokens.

    prompt: as in the config; "" if the input is shown alone. system, prefix: in a chat, the system message, and the
    text before the input in the user's message. max_answer_tokens: longest answer in training.
    """

    prompt: str
    system: str | None
    prefix: str
    before: str
    after: str
    max_answer_tokens: int


class Usage(_Part):
    """All facts that are needed to prompt the exported weights as they were trained; the content of `medray.json`.

    records: `prompted` (the prompt, then one input) or `conversation` (the messages of a record, unchanged). template:
    its name in the config, or "file". chat_template: whether the tokenizer of the export renders messages as in
    training. begin: text of a token that precedes the rendered messages. thinking_switch: whether the template must be
    called with thinking off. dtype: type of the weights; for an adapter, of the base model it was trained on. tasks:
    prompts by name of the task, label first. languages: prompts for rows of a language, which replace `tasks`.
    max_input_tokens: longest input in training; longer ones were cut. needs_key_words: whether the label's input
    contains key words that were found first (method.variant two_step). generation: arguments of transformers'
    GenerationConfig in the run's evaluations. adapter: type of the adapter. encoding: all settings by which training made
    prompts, for medray itself; None in an export of an older version.
    """

    schema_version: int = SCHEMA
    format: Format
    architecture: Literal["causal", "seq2seq"]
    base: Base
    dtype: str
    adapter: str | None = None
    records: Literal["prompted", "conversation"]
    template: str
    chat_template: bool
    begin: str = ""
    thinking_switch: bool = False
    tasks: dict[str, Question]
    languages: dict[str, dict[str, Question]] = Field(default_factory=dict)
    max_input_tokens: int
    needs_key_words: bool = False
    generation: dict[Annotated[str, Field(pattern=r"^[a-z_]+$")], Any]
    encoding: EncodeSpec | None = None


def read_usage(folder: StoragePath) -> Usage | None:
    """Read `medray.json` of an export; None if it has none. Raises InputError if it cannot be read."""
    file = folder / FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        text = ""
    try:
        tree = json.loads(text)
        if (
            isinstance(tree, dict)
            and isinstance(version := tree.get("schema_version"), int)
            and version > SCHEMA
        ):
            raise InputError(
                f"the file has version {version} of its format, but this medray reads only versions up to {SCHEMA}",
                file=file,
                fix="install a newer medray",
            )
        return Usage.model_validate(tree)
    except (ValueError, RecursionError, ValidationError):
        raise InputError(
            "the file does not describe an export of medray", file=file, fix="export the run again"
        ) from None


def write_usage(folder: StoragePath, usage: Usage) -> None:
    """Write `medray.json` into the folder of an export."""
    text = json.dumps(usage.model_dump(mode="json"), indent=1, ensure_ascii=False)
    storage.write(folder / FILE, text + "\n")


def base_of_model(model: ModelConfig, place: str) -> Base:
    """Return the origin of a run's base weights. `place` is the folder or hub id from which they were loaded."""
    if model.init == "random":
        return Base(name=model.preset or Path(str(model.name)).name, kind="random")
    if packaged := PACKAGED_MODELS.get(str(model.name)):
        return Base(name=str(model.name), kind="package", revision=packaged.version, licence=packaged.licence)
    name = str(model.name or place)
    # A folder in the cache of Hugging Face has the model's id in its name.
    cached = re.search(r"(?:^|/)models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})/?$", name)
    if cached:
        return Base(
            name=f"{cached[1]}/{cached[2]}", kind="hub", revision=cached[3], licence=_licence(Path(name))
        )
    snapshot = re.search(r"/snapshots/([0-9a-f]{40})", place)
    revision, licence = snapshot[1] if snapshot else None, _licence(Path(place))
    hub = not Path(name).exists() and re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", name) is not None
    return Base(name=name, kind="hub" if hub else "folder", revision=revision, licence=licence)


def usage(
    spec: EncodeSpec,
    tokenizer: Any,
    tokens: TokenSet | None,
    *,
    format: Format,
    base: Base,
    dtype: str,
    adapter: str | None,
    model: Mapping[str, Any],
    max_new_tokens: int,
    num_beams: int,
    generation: Mapping[str, Any] | None = None,
) -> Usage:
    """Describe how to prompt weights that were trained with `spec`.

    tokenizer: the tokenizer of the export. tokens: the token shards of the run; None if they were deleted. model:
    values of the model's config.json, and of its generation_config.json, which take precedence. max_new_tokens,
    num_beams: settings of the run's evaluations. generation: all settings of the evaluations; None if the model is not
    loaded: they are then derived from the other values.
    """
    asker = _Asker(tokenizer, spec)
    shown = asker.shown_with(tokens)
    conversation = shown is None
    general = asker.questions("" if conversation else None)
    if shown is not None and shown == spec.extraction_prompt:
        general |= asker.questions(shown, only="label")
    languages = {lang: asker.questions(None, lang) for lang in spec.prompts_by_lang}
    template = Template(tokenizer, spec.template, spec.architecture)
    source = template.source
    own = spec.architecture == "causal" and not template.legacy
    return Usage(
        format=format,
        architecture=spec.architecture,
        base=base,
        dtype=dtype,
        adapter=adapter,
        records="conversation" if conversation else "prompted",
        template="file" if spec.template.startswith("jinja:") else spec.template,
        chat_template=own and bool(tokenizer.chat_template),
        begin=asker.begin if own else "",
        thinking_switch=own and "enable_thinking" in (source or str(tokenizer.chat_template or "")),
        tasks=general,
        languages={} if conversation else languages,
        max_input_tokens=spec.max_prompt_tokens or spec.max_input_tokens,
        needs_key_words=spec.appends_keys,
        encoding=spec,
        generation=dict(generation)
        if generation is not None
        else {
            **{name: model[name] for name in _BEGINS if model.get(name) is not None},
            "max_new_tokens": max_new_tokens,
            "num_beams": num_beams,
            "do_sample": False,
            "eos_token_id": _ends(tokenizer, model.get("eos_token_id")),
            "pad_token_id": tokenizer.pad_token_id,
        },
    )


class _Asker:
    """A renderer of the prompts of a spec with one tokenizer."""

    def __init__(self, tokenizer: Any, spec: EncodeSpec) -> None:
        self._spec, self._tokenizer = replace(spec, appends_keys=False), tokenizer
        self._template = Template(tokenizer, spec.template, spec.architecture)
        self._ids = TextIds(tokenizer)
        self.begin = ""  # text of the begin token, if training put one before the template's text

    def questions(self, prompt: str | None, lang: str = "", only: str | None = None) -> dict[str, Question]:
        """Return the prompt of each task. An answer that no model is asked for, such as a rejected one, is left out.

        prompt: replaces the spec's own. only: return this task only.
        """
        tasks = self._spec.tasks if only is None else (only,)
        found = {task: self.question(task, prompt, lang) for task in tasks}
        return {task: question for task, question in found.items() if question is not None}

    def question(self, task: str, prompt: str | None, lang: str = "") -> Question | None:
        """Return the prompt of `task`; None for an answer that no model is asked for. prompt: replaces the spec's own."""
        spec = self._spec
        if prompt is not None:
            spec = replace(spec, prompts=dict.fromkeys((*spec.prompts, task), prompt), prompts_by_lang={})
        _, key = split_task(task)
        record = Distill(Origin("", "", "", lang), _MARK, "x", {key: "x"} if key else "x")
        found = reading(record, task, spec)
        if found is None:
            return None
        before, _, after = self._text([(turn.role, turn.lead + (turn.text or "")) for turn in found.turns])
        system = next((turn.lead for turn in found.turns if turn.role == "system"), None)
        prefix = found.turns[-1].lead
        if system is not None and not self._template.system:  # render() then puts it before the user's text
            system, prefix = None, f"{system}\n\n{prefix}"
        return Question(
            prompt=spec.prompt(task, lang),
            system=system,
            prefix=prefix,
            before=before,
            after=after,
            max_answer_tokens=spec.limit(task),
        )

    def _text(self, messages: Sequence[tuple[str, str]]) -> tuple[str, str, str]:
        """Return the text before the input, the mark, and the text after it, with the begin and end tokens of training."""
        seq2seq = self._spec.architecture == "seq2seq"
        before, mark, after = self._template.render(messages, ask=not seq2seq).partition(_MARK)
        begin = self._ids.begin
        # As in medray.data.encode.frames: the tokenizer's begin token precedes legacy prompts even if they have their own.
        if begin is not None and (self._ids.split(before)[:1] != [begin] or self._template.legacy):
            self.begin = str(self._tokenizer.convert_ids_to_tokens(begin))
            before = self.begin + before
        return before, mark, after + (self._tokenizer.eos_token if seq2seq else "")

    def shown_with(self, tokens: TokenSet | None) -> str | None:
        """Return the prompt with which most of a few rows begin; None if they begin with none of the spec's prompts."""
        spec = self._spec
        prompts = [
            spec.extraction_prompt,
            *(spec.prompt("label", lang) for lang in ("", *spec.prompts_by_lang)),
        ]
        given = list(dict.fromkeys(prompt for prompt in prompts if prompt))
        starts = {
            prompt: _plain(self._read(self.questions(prompt, only="label")["label"].before))
            for prompt in given
        }
        found = Counter(
            next((prompt for prompt, start in starts.items() if text.startswith(start)), None)
            for text in map(_plain, self._rows(tokens))
        )
        if not spec.prompt("label"):
            return next(iter(found.most_common(1)), ("", 0))[0] or ""
        return found.most_common(1)[0][0] if found else spec.prompt("label")

    def _read(self, text: str) -> str:
        """Return a text encoded and decoded again, without characters that the tokenizer does not know."""
        return str(self._tokenizer.decode(self._tokenizer(text, add_special_tokens=False)["input_ids"]))

    def _rows(self, tokens: TokenSet | None) -> list[str]:
        if tokens is None:
            return []
        store = tokens.store()
        shards = tokens.index.shards[:: max(len(tokens.index.shards) // 4, 1)][:4]
        places = [(shard.index, row) for shard in shards for row in range(min(shard.rows, ROWS // 4))]
        asked = [store.prompt(*place) for place in places if store.has(place[0])]
        return [self._tokenizer.decode(ids) for ids in asked if len(ids)]


def _plain(text: str) -> str:
    """Return a text without white space and case, which some tokenizers do not keep."""
    return re.sub(r"\s+", "", text).casefold()


def _ends(tokenizer: Any, known: Any) -> list[int]:
    """Return the ids that end an answer: the tokenizer's end token first, then those of the model's generation_config."""
    more = known if isinstance(known, list | tuple) else [] if known is None else [known]
    return list(dict.fromkeys([int(tokenizer.eos_token_id), *(int(number) for number in more)]))


def _licence(folder: Path) -> str | None:
    """Return the licence in the header of the base's model card; None if there is none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")[:4000]
    except (OSError, ValueError):
        return None
    found = re.match(r"---\n(?:.*\n)*?licen[sc]e: *([\w.-]+) *\n", text)
    return found[1] if found else None


def example(found: Usage, file: str | None = None) -> str:
    """Return a Python program that prompts the weights for the first task. It runs in the folder of the export.

    file: name of the weight file in a GGUF export.
    """
    auto = "AutoModelForSeq2SeqLM" if found.architecture == "seq2seq" else "AutoModelForCausalLM"
    question = next(iter(found.tasks.values()))
    adapter = found.format == "adapter"
    dtype = f', dtype="{_DTYPES[found.dtype]}"' if found.dtype in _DTYPES else ""
    gguf = f", gguf_file={file!r}" if file else ""
    lines = ["from peft import PeftConfig, PeftModel"] if adapter else []
    lines += [f"from transformers import {auto}, AutoTokenizer, GenerationConfig", ""]
    lines += ['folder, text = ".", "the input"', f"tokenizer = AutoTokenizer.from_pretrained(folder{gguf})"]
    if adapter and found.base.kind == "random":
        lines.append('base = f"{folder}/base"  # its weights were drawn at random')
    elif adapter:
        comment = f"  # {printable(found.base.name)}"
        lines.append(f"base = PeftConfig.from_pretrained(folder).base_model_name_or_path{comment}")
    settings = ", ".join(f"{name}={value!r}" for name, value in found.generation.items())
    lines.append(f"model = {auto}.from_pretrained({'base' if adapter else 'folder'}{gguf}{dtype})")
    lines.append(f"model.generation_config = GenerationConfig({settings})")
    lines += ["model = PeftModel.from_pretrained(model, folder)"] if adapter else []
    if found.chat_template:
        system = [] if question.system is None else [f'{{"role": "system", "content": {question.system!r}}}']
        user = (
            f'{{"role": "user", "content": {question.prefix!r} + text}}'
            if question.prefix
            else ('{"role": "user", "content": text}')
        )
        thinking = ", enable_thinking=False" if found.thinking_switch else ""
        lines.append(f"messages = [{', '.join([*system, user])}]")
        lines.append(
            "prompt = tokenizer.apply_chat_template("
            f"messages, tokenize=False, add_generation_prompt=True{thinking})"
        )
        if found.begin:
            lines[-1] = lines[-1].replace("prompt = ", f"prompt = {found.begin!r} + ")
    else:
        lines.append(f"prompt = {question.before!r} + text + {question.after!r}")
    lines.append(
        'inputs = tokenizer(prompt, add_special_tokens=False, return_token_type_ids=False, return_tensors="pt")'
    )
    more = ", task_ids=inputs.input_ids.new_zeros(1)" if found.adapter == "multitask_prompt" else ""
    start = "1:" if found.architecture == "seq2seq" else "inputs.input_ids.shape[1]:"
    lines.append(f"answer = model.generate(**inputs{more})[0, {start}].tolist()")
    ends = found.generation["eos_token_id"]
    lines.append(
        f"print(tokenizer.decode([n for n in answer if n not in {ends}], skip_special_tokens=True).strip())"
    )
    return "\n".join(lines)
