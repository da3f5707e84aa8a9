"""How exported weights are asked: `medray.json` in every export folder, and a runnable example for its card.

The prompts come from the run's configuration and are tried on a few of its rows, so that a corpus of conversations,
which are shown to the model as they are, is not said to have a prompt. No text of a record is in the file.
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
ROWS = 16  # of a run, that the prompts are tried on
_MARK = "\u2402input\u2403"  # stands for the input while a prompt is rendered; no corpus holds it
# Settings by which an architecture begins a text, from the model's generation_config or config.
_BEGINS = ("decoder_start_token_id", "forced_bos_token_id", "forced_decoder_ids")
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

Format = Literal["adapter", "full", "merged", "nf4", "gguf"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Base(_Part):
    """Where the weights under the tuning came from.

    kind hub: name is the model's id there. package: a packaged model of medray. folder: the path that the run's config
    names. random: the weights were drawn. None: not known.
    """

    name: str
    kind: Literal["hub", "package", "folder", "random"]
    revision: str | None = None
    licence: str | None = None


class Question(_Part):
    """How one task is asked. The whole text is `before`, the input and `after`, tokenized without more special tokens.

    prompt: as the config has it, "" where the input is shown alone. system, prefix: of a chat: the system message, and
    what stands before the input in the user's message. max_answer_tokens: longest answer in training.
    """

    prompt: str
    system: str | None
    prefix: str
    before: str
    after: str
    max_answer_tokens: int


class Usage(_Part):
    """All that someone needs to ask the weights as they were trained.

    records: prompted: one input after the prompt; conversation: the messages of a record as they are. template: its name
    in the config, or "file". chat_template: whether the tokenizer of the export renders messages as in training; begin:
    text of a token that comes before what it renders. thinking_switch: whether it is asked not to think.
    dtype: of the weights; of an adapter, that of the base it was trained on. tasks: by name, label first. languages: of
    rows in these languages, in the place of `tasks`. max_input_tokens: longest input in training; longer ones were cut.
    needs_key_words: the label's input holds key words that were found first (method.variant two_step). generation:
    arguments of transformers' GenerationConfig that the run was evaluated with. adapter: its type.
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


def read_usage(folder: StoragePath) -> Usage | None:
    """The usage of the export in `folder`; None where it has none. Raises InputError for one that cannot be read."""
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
                f"was written in version {version} of its form, and this medray reads {SCHEMA}",
                file=file,
                fix="install a newer medray",
            )
        return Usage.model_validate(tree)
    except (ValueError, RecursionError, ValidationError):
        raise InputError("is not a description of an export", file=file, fix="export the run again") from None


def write_usage(folder: StoragePath, usage: Usage) -> None:
    """Write `medray.json` into `folder`."""
    text = json.dumps(usage.model_dump(mode="json"), indent=1, ensure_ascii=False)
    storage.write(folder / FILE, text + "\n")


def base_of_model(model: ModelConfig, place: str) -> Base:
    """The base of a run, by its name. place: folder or hub id that its weights were loaded from."""
    if model.init == "random":
        return Base(name=model.preset or Path(str(model.name)).name, kind="random")
    if packaged := PACKAGED_MODELS.get(str(model.name)):
        return Base(name=str(model.name), kind="package", revision=packaged.version, licence=packaged.licence)
    name = str(model.name or place)
    # A folder of Hugging Face's cache is named after what it holds.
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
    """Describe how weights that were trained by `spec` are asked.

    tokenizer: of the export. tokens: of the run, None where they are gone. model: values of the model's config.json and, over them, of its generation_config.json.
    max_new_tokens, num_beams: of the run's evaluations. generation: all settings of these, where the model was at hand; else
    they are put together from the other values.
    """
    asker = _Asker(tokenizer, spec)
    shown = asker.shown_with(tokens)
    conversation = shown is None
    general = asker.questions("" if conversation else None)
    if shown is not None and shown == spec.extraction_prompt:
        general |= asker.questions(shown, only="label")
    languages = {lang: asker.questions(None, lang) for lang in spec.prompts_by_lang}
    source = Template(tokenizer, spec.template, spec.architecture).source
    own = spec.architecture == "causal" and not spec.template.startswith("legacy/")
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
        max_input_tokens=spec.max_input_tokens,
        needs_key_words=spec.appends_keys,
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
    """Renders the prompts of a spec with one tokenizer."""

    def __init__(self, tokenizer: Any, spec: EncodeSpec) -> None:
        self._spec, self._tokenizer = replace(spec, appends_keys=False), tokenizer
        self._template = Template(tokenizer, spec.template, spec.architecture)
        self._ids = TextIds(tokenizer)
        self.begin = ""  # text of the begin token, where training put one before the template's own text

    def questions(self, prompt: str | None, lang: str = "", only: str | None = None) -> dict[str, Question]:
        """Return how each task is asked. An answer that a model is not asked for, such as a rejected one, is left out.

        prompt: replaces the spec's own. only: this task alone.
        """
        tasks = self._spec.tasks if only is None else (only,)
        found = {task: self.question(task, prompt, lang) for task in tasks}
        return {task: question for task, question in found.items() if question is not None}

    def question(self, task: str, prompt: str | None, lang: str = "") -> Question | None:
        """Return how `task` is asked; None for an answer that no model is asked for. prompt: replaces the spec's own."""
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
        if system is not None and not self._template.system:  # then it is put before the user's words
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
        """The whole text before and after the input, with the begin and end tokens that training has put around it."""
        seq2seq = self._spec.architecture == "seq2seq"
        before, mark, after = self._template.render(messages, ask=not seq2seq).partition(_MARK)
        begin = self._ids.begin
        # As in data/frames: legacy prompts have the tokenizer's own begin token before whatever they hold.
        if begin is not None and (self._ids.split(before)[:1] != [begin] or self._template.legacy):
            self.begin = str(self._tokenizer.convert_ids_to_tokens(begin))
            before = self.begin + before
        return before, mark, after + (self._tokenizer.eos_token if seq2seq else "")

    def shown_with(self, tokens: TokenSet | None) -> str | None:
        """The prompt that most of a few rows begin with; None where they begin with none of the spec's."""
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
        """A text as the tokenizer gives it back, without what it does not know."""
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
    """Without white space and case, which some tokenizers do not keep."""
    return re.sub(r"\s+", "", text).casefold()


def _ends(tokenizer: Any, known: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's end token first, then those of the model's generation_config."""
    more = known if isinstance(known, list | tuple) else [] if known is None else [known]
    return list(dict.fromkeys([int(tokenizer.eos_token_id), *(int(number) for number in more)]))


def _licence(folder: Path) -> str | None:
    """Return the licence in the header of the base's own card."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")[:4000]
    except (OSError, ValueError):
        return None
    found = re.match(r"---\n(?:.*\n)*?licen[sc]e: *([\w.-]+) *\n", text)
    return found[1] if found else None


def example(found: Usage, file: str | None = None) -> str:
    """Python that asks the weights for the first task, run in the folder of the export. file: of a GGUF export."""
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
