"""The settings and paths of the data preparation of a run, all known before it starts."""

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
from medray.config.model import ModelConfig
from medray.data import corpora, files, readers
from medray.data.encode.encoder import EncodeSpec
from medray.data.encode.render import extraction_prompt
from medray.data.encode.templates import read_template
from medray.data.index.membership import SplitIndex
from medray.data.index.sources import FileSource, Source, extraction_of, sources
from medray.data.index.split_checks import check_split
from medray.data.readers import huggingface
from medray.data.shards.fingerprint import content_hashes, membership_key, token_key
from medray.data.shards.long_rows import LongRows
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
from medray.plan.model_config import model_folder as of_model
from medray.storage import StoragePath

SPLITS = ("train", "validation")
# Prompts for sources without a preset: an input has no prompt, but the rationale task needs one that differs from the label.
OWN_PROMPTS = PromptsConfig(label="", rationale="Explain")
# Default prompt of a task for all keys → default prompt of a task for one key.
_KEY_PROMPTS: dict[str | None, str] = {
    corpora.DIALOGUE.rationale: "Extract the {key} information from this dialogue",
    OWN_PROMPTS.rationale: "Extract the {key}",
}
INDEX, REJECTS, CONVERTED = "index.json", "rejects.jsonl", "converted"
# Size up to which the driver hashes the shards of an earlier run before it uses them, which takes less than a second. For a
# larger split, and for one in a bucket, each process hashes the shards that it reads.
CHECKED_BYTES = 256 << 20


class Preparation:
    """The settings of one data preparation: sources, folder, tokenizer and encoding, derived from a config.

    compute: whether sources whose content hash is unknown are read; if not, `known` is False in that case, and nothing
    else is set.
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
            split: [[source.form, source.columns.decisive()] for source in group]
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
        if config.data.drop_longer_than is not None:
            extra["drop_longer_than"] = config.data.drop_longer_than  # the token key has the rest
        if config.data.split.validation_ids is not None:
            extra["validation_ids"] = files.content_hash(config.data.split.validation_ids)
        if (rules := _row_rules(spec_of(config.method))) is not None:
            extra["rows"] = rules
        formats = {split: _formats(group) for split, group in self.sources.items()}
        if any(formats.values()):
            extra["formats"] = formats
        membership = membership_key(config, known, extra)
        place = tokenizer_place(config, model_folder)
        if place is not None:
            self.tokenizer = _on_every_node(config, place)
            identity = tokenizer_hash(place) if Path(place).is_dir() else place
            # Older shards have targets without their first token, and reasoning after an empty one.
            if architecture == "seq2seq" and wraps_texts(place):
                identity += " wrapped"
            if architecture == "causal" and thinks(self.spec.template, place):
                identity += " reasoning as the template has it"
            if architecture == "causal" and may_end_with_added(self.spec.template, place):
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


def long_rows(config: Config, architecture: str, model_folder: str | None) -> LongRows | None:
    """Return the test for rows that are dropped for their length; None if none is dropped."""
    limit, tokenizer = config.data.drop_longer_than, tokenizer_place(config, model_folder)
    if limit is None or tokenizer is None:  # the second is refused by the checks of the config
        return None
    return LongRows.of(limit, str(_on_every_node(config, tokenizer)), encode_spec(config, architecture))


def _on_every_node(config: Config, local: str) -> StoragePath:
    """Return where any node finds the tokenizer that is at `local` here. From a bucket, each node fetches its own copy."""
    named = str(config.model.name if config.data.tokenizer == "model" else config.data.tokenizer)
    return storage.at(named if storage.is_remote(named) else local)


def ready(config: Config, architecture: str, model_folder: str | None) -> dict[str, TokenSet] | None:
    """Return the token sets that an earlier run wrote, if all of them are complete; else None.

    Needs neither Ray nor a tokenizer.
    """
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
    """Return the index of each split in the folder of a data preparation.

    The result is empty if an index is damaged, or if that of the training split does not exist yet.
    """
    found = {}
    try:
        for split in SPLITS:
            with suppress(FileNotFoundError):
                found[split] = SplitIndex.read(folder / split / INDEX)
    except InputError:
        return {}
    return found if "train" in found else {}  # it is written last


def is_whole(tokens: TokenSet) -> bool:
    """Return whether every shard of a token set is written and undamaged. A damaged shard is set aside."""
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
    """Return the manifests of finished splits, as written by `summarize`."""
    found = {}
    for split, tokens in sets.items():
        manifest = read_manifest(storage.at(tokens.folder))
        if manifest is None:
            raise RunFailedError(
                f"{tokens.folder}/{MANIFEST} is missing or damaged. Fix: run the same command again, which creates it"
            )
        found[split] = manifest
    return found


def encode_spec(config: Config, architecture: str) -> EncodeSpec:
    """Return all settings of a config that determine the tokens of a record.

    Raises InputError if the method does not fit the model.
    """
    check_architecture(config, seq2seq=architecture == "seq2seq")
    data, method = config.data, config.method
    extraction, asked = extraction_of(config), prompts_of(config)
    by_lang: Mapping[str, PromptsConfig] = {}
    if data.prompts.label is None:  # the config's own prompt is for rows of every language
        by_lang = {lang: _over(data.prompts, own) for lang, own in _presets(config)[1].items()}
    # A config with the prompt of dialogues copied it from an old default, so documents with entities do not use it.
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
        appends_keys=method_spec.label_reads is not None,
        required=tuple(answer for answer, task in answers.items() if task.required),
        whole=tuple(answer for answer, task in answers.items() if task.long_answers == "drop"),
        max_prompt_tokens=data.max_prompt_tokens,
        key_column=method_spec.label_reads or "rationale",
    )


def prompts_of(config: Config) -> PromptsConfig:
    """Return the prompts of a config: those that it sets, else those of its published corpus, else OWN_PROMPTS."""
    found = _over(config.data.prompts, _presets(config)[0])
    # The prompt of a task for one key names that key.
    if spec_of(config.method).keys is not None and found.rationale in _KEY_PROMPTS:
        return found.model_copy(update={"rationale": _KEY_PROMPTS[found.rationale]})
    return found


def prompts_said(config: Config) -> str:
    """Return a sentence about the prompts of a config, for the console and `inspect`. It quotes default prompts."""
    written, used, said = config.data.prompts, prompts_of(config), []
    for kind in dict.fromkeys(task.prompt for task in spec_of(config.method).encoded):
        text, key = getattr(used, kind), f"data.prompts.{kind}"
        if getattr(written, kind) is not None:
            said.append(f"{kind}: as {key} says")
        else:
            said.append(
                f"{kind}: " + (f"{text!r}, a default" if text else "none, the input alone") + f" ({key})"
            )
    return "; ".join(said) + "; chats and documents with entities have their own prompts"


def _presets(config: Config) -> tuple[PromptsConfig, Mapping[str, PromptsConfig]]:
    """Return the default prompts, and those of languages."""
    dataset = config.data.dataset
    if dataset is None:
        return OWN_PROMPTS, {}
    if dataset == "clinic":
        return corpora.DIALOGUE, {}
    presets = corpora.presets(dataset)
    return presets.prompts, presets.prompts_by_lang


def _over(written: PromptsConfig, preset: PromptsConfig) -> PromptsConfig:
    """Return the written prompts, with those of the preset for the rest."""
    return PromptsConfig(
        **{
            name: value if (value := getattr(written, name)) is not None else getattr(preset, name)
            for name in PromptsConfig.model_fields
        }
    )


def _formats(group: Sequence[Source]) -> dict[int, list[str | None]]:
    """Return how sources are read if their names and content do not determine it.

    This is a format from the config, a split of a saved data set, class labels, which an earlier version read as numbers,
    or TSV, which it read with quotes.
    """
    found: dict[int, list[str | None]] = {}
    for number, source in enumerate(group):
        if not isinstance(source, FileSource):
            continue
        if source.format == "huggingface":
            named = huggingface.has_classes(source.path, source.split, source.subset)
            if named or (source.split, source.subset) != ("train", None):
                found[number] = [source.format, source.split, source.subset]
            if named:
                found[number].append("names of classes")
        elif source.format.startswith("tsv") or source.format != readers.known_format(source.path):
            found[number] = [source.format]
    return found


def _row_rules(method: MethodSpec) -> dict[str, Any] | None:
    """Return the rules by which the method decides which rows are good and which are equal.

    None: the rules are those that all methods had when indexes were first written.
    """
    needed = [column.name for column in method.columns if column.every_row]
    plain = not needed and method.identity == "input_and_answer"
    return None if plain else {"needed": needed, "identity": method.identity}


def _weights(config: Config) -> tuple[float, ...]:
    """Return the shares of the corpora, or () if they are not mixed by weight."""
    weights = [entry.weight for entry in config.data.train]
    return tuple(weight for weight in weights if weight is not None)


def tokenizer_place(config: Config, model_folder: str | None) -> str | None:
    """Return the folder or hub id of a config's tokenizer; None if the run trains its own."""
    name = config.data.tokenizer
    if name == "train":
        return None
    return model_folder if name == "model" else of_model(ModelConfig(name=name))


def _eos_token(config: Config, model_folder: str | None) -> str:
    """Return the text of the end token, which separates premise and hypothesis in corpora that were published like this."""
    place = tokenizer_place(config, model_folder)
    if place is None:
        return EOS
    try:
        tree = storage.read_json(Path(place) / TOKENIZER_CONFIG, limit_bytes=TOKENIZER_BYTES)
        found = tree.get("eos_token")
    except OSError:
        return EOS
    text = found.get("content") if isinstance(found, dict) else found
    return text if isinstance(text, str) else EOS
