"""Where everything of one data preparation lies, known before any of it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medray import storage
from medray.config import Config
from medray.config.checks.method import check_architecture
from medray.config.checks.model_folder import TOKENIZER_BYTES, TOKENIZER_CONFIG
from medray.config.data import PromptsConfig
from medray.config.method_specs import MethodSpec, spec_of
from medray.data import corpora, files, readers
from medray.data.encode.encoder import EncodeSpec
from medray.data.encode.render import extraction_prompt
from medray.data.encode.templates import read_template
from medray.data.index.membership import SplitIndex
from medray.data.index.sources import FileSource, Source, extraction_of, sources
from medray.data.index.split_checks import check_split
from medray.data.shards.fingerprint import content_hashes, membership_key, token_key
from medray.data.shards.seal import MANIFEST, is_sound
from medray.data.shards.shard_file import shard_path
from medray.data.shards.split_summary import read_manifest
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import (
    EOS,
    may_end_with_added,
    thinks,
    tokenizer_hash,
    trained_tokenizer_key,
    wraps_texts,
)
from medray.errors import InputError, RunFailedError
from medray.storage import StoragePath

SPLITS = ("train", "validation")
# Of sources without a preset: nothing is put before an input, but something must tell its rationale from its label.
OWN_PROMPTS = PromptsConfig(label="", rationale="Explain")
# Defaults of a task of one key, by the default of a task of all keys.
_KEY_PROMPTS: dict[str | None, str] = {
    corpora.DIALOGUE.rationale: "Extract the {key} information from this dialogue",
    OWN_PROMPTS.rationale: "Extract the {key}",
}
INDEX, REJECTS, CONVERTED = "index.json", "rejects.jsonl", "converted"
# Hashed by the driver before it uses the shards of an earlier run again: less than a second. Of a larger split, and of one in a bucket,
# each process hashes the shards that it reads.
CHECKED_BYTES = 256 << 20


class Preparation:
    """Sources, folder, tokenizer and encoding of a config.

    compute: read sources whose content is not known yet; without it `known` is False and nothing else is set.
    """

    def __init__(
        self, config: Config, architecture: str, model_folder: str | None, *, compute: bool = True
    ) -> None:
        stored = storage.at(config.run.storage)
        storage.check_reachable(stored)
        tokens = stored / "tokens"
        eos = _eos_token(config, model_folder)
        self.sources = {split: sources(config, split, eos_token=eos) for split in SPLITS}
        hashes = {
            split: content_hashes(group, tokens / "hashes", compute=compute)
            for split, group in self.sources.items()
        }
        self.known = all(found is not None for found in hashes.values())
        if not self.known:
            return
        self.spec = encode_spec(config, architecture)
        known = {split: found or [] for split, found in hashes.items()}
        shapes = {
            split: [[source.form, source.columns.model_dump()] for source in group]
            for split, group in self.sources.items()
        }
        extra: dict[str, Any] = {
            "shapes": shapes,
            "dataset": config.data.dataset,
            "benchmarks": [
                files.content_hash(path)
                for pattern in config.data.decontaminate
                for path in files.expand(pattern, key="data.decontaminate")
            ],
        }
        if (rules := _row_rules(spec_of(config.method))) is not None:
            extra["rows"] = rules
        formats = {split: _formats(group) for split, group in self.sources.items()}
        if any(formats.values()):
            extra["formats"] = formats
        membership = membership_key(config, known, extra)
        if config.data.tokenizer == "model":
            assert model_folder is not None
            self.tokenizer = storage.at(model_folder)
            identity = tokenizer_hash(model_folder) if self.tokenizer.is_dir() else model_folder
            # Shards from before hold targets without their first token, and reasoning after an empty one.
            if architecture == "seq2seq" and wraps_texts(model_folder):
                identity += " wrapped"
            if architecture == "causal" and thinks(self.spec.template, model_folder):
                identity += " reasoning as the template has it"
            if architecture == "causal" and may_end_with_added(self.spec.template, model_folder):
                identity += " added ends"
        else:
            identity = trained_tokenizer_key([membership], config.data.vocab_size)
            self.tokenizer = stored / "tokenizers" / identity
        self.folder = tokens / token_key(membership, self.spec, identity)
        self.weights = _weights(config)

    def token_set(self, split: str, index: SplitIndex) -> TokenSet:
        return TokenSet(
            folder=str(self.folder / split),
            tokenizer=str(self.tokenizer),
            spec=self.spec,
            index=index,
            weights=self.weights if split == "train" else (),
        )


def ready(config: Config, architecture: str, model_folder: str | None) -> dict[str, TokenSet] | None:
    """The token sets of an earlier run, where all of them are whole; asks neither Ray nor a tokenizer."""
    layout = Preparation(config, architecture, model_folder, compute=False)
    if not layout.known:
        return None
    indexes = read_indexes(layout.folder)
    sets = {split: layout.token_set(split, index) for split, index in indexes.items()}
    if not sets or not all(is_whole(tokens) for tokens in sets.values()):
        return None
    for split, tokens in sets.items():
        check_split(config, split, tokens.index, storage.at(tokens.folder) / REJECTS)
    return sets


def read_indexes(folder: StoragePath) -> dict[str, SplitIndex]:
    """The index of each split of a data preparation; none where one is damaged or training has none yet."""
    found = {}
    try:
        for split in SPLITS:
            with suppress(FileNotFoundError):
                found[split] = SplitIndex.read(folder / split / INDEX)
    except InputError:
        return {}
    return found if "train" in found else {}  # written last


def is_whole(tokens: TokenSet) -> bool:
    """Whether every shard is written and, as far as they are looked at here, sound. A damaged one is set aside."""
    folder = storage.at(tokens.folder)
    if read_manifest(folder) is None:
        return False
    if not isinstance(folder, Path):
        return True
    left, there = CHECKED_BYTES, storage.sizes(folder)
    for shard in tokens.index.shards:
        path = shard_path(folder, shard.index)
        if not is_sound(path):
            return False
        left -= there.get(path.name, 0)
        if left < 0:
            break
    return True


def manifests(sets: dict[str, TokenSet]) -> dict[str, Any]:
    """What finished splits hold, as `summarize` wrote it."""
    found = {}
    for split, tokens in sets.items():
        manifest = read_manifest(storage.at(tokens.folder))
        if manifest is None:
            raise RunFailedError(
                f"{tokens.folder}/{MANIFEST} is gone or damaged. Run the same command again: it is made again"
            )
        found[split] = manifest
    return found


def encode_spec(config: Config, architecture: str) -> EncodeSpec:
    """All that decides the tokens of a record. Raises InputError for a method that such a model cannot be trained by."""
    check_architecture(config, seq2seq=architecture == "seq2seq")
    data, method = config.data, config.method
    extraction, asked = extraction_of(config), prompts_of(config)
    by_lang: Mapping[str, PromptsConfig] = {}
    if data.prompts.label is None:  # the config's own prompt is for rows of every language
        by_lang = {lang: _over(data.prompts, own) for lang, own in _presets(config)[1].items()}
    # Whoever wrote the prompt of dialogues had it from the default that there once was: no document is asked by it.
    given = data.prompts.label == "" or asked.label not in ("", corpora.DIALOGUE.label)
    method_spec = spec_of(method)
    answers = {task.answer: task for task in method_spec.encoded}
    return EncodeSpec(
        architecture="seq2seq" if architecture == "seq2seq" else "causal",
        tasks=tuple(task.name for task in method_spec.encoded),
        prompts={answer: getattr(asked, task.prompt) or "" for answer, task in answers.items()},
        system=asked.system,
        template=read_template(data.template),
        train_turns=data.train_turns,
        train_on=method.train_on,
        extraction_answer=extraction.answer,
        extraction_types=extraction.types,
        max_input_tokens=data.max_input_tokens,
        limits={answer: task.limit(data) for answer, task in answers.items()},
        prompts_by_lang={
            lang: {answer: getattr(prompts, task.prompt) or "" for answer, task in answers.items()}
            for lang, prompts in by_lang.items()
        },
        extraction_prompt=None if given else extraction_prompt(extraction.answer, extraction.types),
        skip_null=method_spec.skip_null,
        draw_seed=config.run.seed if method_spec.draw_one else None,
        appends_keys=method_spec.label_reads_rationale,
        required=tuple(answer for answer, task in answers.items() if task.required),
        whole=tuple(answer for answer, task in answers.items() if task.long_answers == "drop"),
    )


def prompts_of(config: Config) -> PromptsConfig:
    """The prompts that a config trains with: its own, else those of its published corpus, else OWN_PROMPTS."""
    found = _over(config.data.prompts, _presets(config)[0])
    # A task of one key asks for that key.
    if spec_of(config.method).keys is not None and found.rationale in _KEY_PROMPTS:
        return found.model_copy(update={"rationale": _KEY_PROMPTS[found.rationale]})
    return found


def prompts_said(config: Config) -> str:
    """The prompts of a config for the console and `inspect`: those that nobody wrote are quoted."""
    written, used, said = config.data.prompts, prompts_of(config), []
    for kind in dict.fromkeys(task.prompt for task in spec_of(config.method).encoded):
        text, key = getattr(used, kind), f"data.prompts.{kind}"
        if getattr(written, kind) is not None:
            said.append(f"{kind}: as {key} says")
        else:
            said.append(
                f"{kind}: " + (f"{text!r}, a default" if text else "none, the input alone") + f" ({key})"
            )
    return "; ".join(said) + "; chats, and documents that are asked for entities, have their own"


def _presets(config: Config) -> tuple[PromptsConfig, Mapping[str, PromptsConfig]]:
    """Prompts where the config has none, and those of languages."""
    dataset = config.data.dataset
    if dataset is None:
        return OWN_PROMPTS, {}
    if dataset == "clinic":
        return corpora.DIALOGUE, {}
    presets = corpora.presets(dataset)
    return presets.prompts, presets.prompts_by_lang


def _over(written: PromptsConfig, preset: PromptsConfig) -> PromptsConfig:
    """Each prompt that is written, else that of the preset."""
    return PromptsConfig(
        **{
            name: value if (value := getattr(written, name)) is not None else getattr(preset, name)
            for name in PromptsConfig.model_fields
        }
    )


def _formats(group: Sequence[Source]) -> dict[int, list[str | None]]:
    """How sources are read, where their names and content do not tell it: a format by the config, a split of a saved data
    set; and TSV, which an earlier version read with quotes."""
    found: dict[int, list[str | None]] = {}
    for number, source in enumerate(group):
        if not isinstance(source, FileSource):
            continue
        if source.format == "huggingface":
            if (source.split, source.subset) != ("train", None):
                found[number] = [source.format, source.split, source.subset]
        elif source.format.startswith("tsv") or source.format != readers.known_format(source.path):
            found[number] = [source.format]
    return found


def _row_rules(method: MethodSpec) -> dict[str, Any] | None:
    """How the method decides which rows are good and alike; None where it decides as all did when indexes were first
    written."""
    needed = [column.name for column in method.columns if column.every_row]
    plain = not needed and method.identity == "input_and_answer"
    return None if plain else {"needed": needed, "identity": method.identity}


def _weights(config: Config) -> tuple[float, ...]:
    """Shares of the corpora, () where they are not mixed by weight."""
    weights = [entry.weight for entry in config.data.train]
    return tuple(weight for weight in weights if weight is not None)


def _eos_token(config: Config, model_folder: str | None) -> str:
    """The end token's text, which joins premise and hypothesis in the corpora that were published so."""
    if config.data.tokenizer == "train" or model_folder is None:
        return EOS
    try:
        tree = storage.read_json(Path(model_folder) / TOKENIZER_CONFIG, limit_bytes=TOKENIZER_BYTES)
        found = tree.get("eos_token")
    except OSError:
        return EOS
    text = found.get("content") if isinstance(found, dict) else found
    return text if isinstance(text, str) else EOS
