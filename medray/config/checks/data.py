"""Checks for keys of `data` that contradict each other.

Whether the sources exist is checked in `medray.data.index.sources`.
"""

from __future__ import annotations

import os

from medray.config import Config
from medray.config.data import TEMPLATE_FILES, TEMPLATES, DataConfig
from medray.config.method_specs import spec_of
from medray.errors import InputError

TAUGHT = (
    "cqa",
    "svamp",
    "asdiv",
    "esnli",
    "anli1",
    "generic",
)  # corpora that include a teacher's completions


def check_data(config: Config, *, seq2seq: bool, planned: bool = False) -> None:
    """Raise InputError for the first setting of `data` that cannot work with the others.

    seq2seq: whether the model is known to be an encoder-decoder. planned: the data need not exist yet.
    """
    data = config.data
    _check_sources(data, planned=planned)
    _check_split(config)
    _check_validation_ids(data)
    _check_teacher(config)
    _check_rendering(config, seq2seq, planned=planned)
    _check_lengths(data)
    _check_batches(config, seq2seq)
    _check_metrics(config)
    if data.drop_longer_than is not None and data.tokenizer == "train":
        raise InputError(
            "rows are dropped by their length before the tokenizer is trained, so their tokens cannot be counted",
            key="data.drop_longer_than",
            value=data.drop_longer_than,
            fix="use an existing tokenizer (data.tokenizer), or remove the key",
        )


def _check_sources(data: DataConfig, *, planned: bool) -> None:
    if data.dataset is not None and (data.train or data.validation):
        key = "data.train" if data.train else "data.validation"
        raise InputError(
            "a named dataset and your own files cannot be used together",
            key="data.dataset",
            value=data.dataset,
            fix=f"set data.dataset: null, or remove {key}",
        )
    if data.dataset is None and not data.train and not planned:
        raise InputError(
            "no training data is set",
            key="data.train",
            fix="set data.train: my.jsonl, or data.dataset: clinic for the simulated clinic",
        )
    if (
        not planned
        and data.dataset not in (None, "clinic")
        and "://" not in str(data.root)
        and not os.path.isdir(str(data.root))
    ):
        raise InputError(
            f"there is no such folder, but it should contain the files of {data.dataset}",
            key="data.root",
            value=data.root,
            fix="use the folder of the published files",
        )
    weighed = [entry.weight is not None for entry in data.train]
    if any(weighed) and not all(weighed):
        raise InputError(
            f"only {sum(weighed)} of {len(weighed)} sources have a weight",
            key="data.train",
            fix="give a weight to every source, or to none",
        )
    if any(entry.weight is not None for entry in data.validation):
        raise InputError(
            "this source has a weight, which has no effect: validation uses every row once",
            key="data.validation",
            fix="remove the weight of the source",
        )


def _check_split(config: Config) -> None:
    data = config.data
    if data.split.validation and data.validation:
        raise InputError(
            "this key would split validation rows from the training data, but data.validation already provides them",
            key="data.split.validation",
            value=data.split.validation,
            fix="set data.split.validation: 0, or remove data.validation",
        )
    if data.split.validation and data.dataset == "clinic":
        raise InputError(
            "the simulated clinic generates its own validation rows, so none can be split from its training rows",
            key="data.split.validation",
            value=data.split.validation,
            fix="remove this key, and set data.clinic.validation_rows: 100",
        )


def _check_validation_ids(data: DataConfig) -> None:
    split, name = data.split, "data.split.validation_ids"
    if split.validation_ids is None:
        return
    others = (
        ("data.validation", bool(data.validation), "remove data.validation"),
        ("data.dataset: clinic", data.dataset == "clinic", f"remove {name}"),
        ("data.split.validation", bool(split.validation), "set data.split.validation: 0"),
        ("data.split.by", split.by != "group", "remove data.split.by"),
        ("data.split.seed", split.seed != 0, "remove data.split.seed"),
    )
    for key, given, fix in others:
        if given:
            raise InputError(
                f"this file decides which rows are for validation, so {key} cannot be used with it",
                key=name,
                value=split.validation_ids,
                fix=f"{fix}, or remove {name}" if name not in fix else fix,
            )


def _check_teacher(config: Config) -> None:
    data, method = config.data, config.method
    for name, value, given in (
        ("label_source", method.label_source, method.label_source == "llm"),
        ("teacher", method.teacher, method.teacher is not None),
    ):
        if given and data.dataset not in TAUGHT:
            raise InputError(
                f"this key needs a data.dataset with a teacher's completions, which only {', '.join(TAUGHT)} have",
                key=f"method.{name}",
                value=value,
                fix=f"remove method.{name}; if the teacher's labels are in your own files, set data.columns.label to their column",
            )


def _check_rendering(config: Config, seq2seq: bool, *, planned: bool) -> None:
    data = config.data
    if data.template not in TEMPLATES:
        if not data.template.endswith(TEMPLATE_FILES):
            raise InputError(
                "there is no template of this name",
                key="data.template",
                value=data.template,
                fix=f"use one of {', '.join(TEMPLATES)}, or a file that ends in .jinja",
            )
        if not planned and not os.path.isfile(data.template):
            raise InputError(
                "there is no such file",
                key="data.template",
                value=data.template,
                fix="check the path; a relative path begins at the folder of the config",
            )
    if not seq2seq:
        return
    for key, value, default in (
        ("data.template", data.template, "chat"),
        ("method.train_on", config.method.train_on, "completion"),
        ("data.pack_tokens", data.pack_tokens, None),
    ):
        if value != default:
            raise InputError(
                "this setting is for causal models, but the model is an encoder-decoder",
                key=key,
                value=value,
                fix=f"set {key}: {'null' if default is None else default}",
            )


def _check_lengths(data: DataConfig) -> None:
    usual = DataConfig.model_fields["max_input_tokens"].default
    if data.max_prompt_tokens is not None and data.max_input_tokens != usual:
        raise InputError(
            "has no effect with data.max_prompt_tokens, which limits the whole prompt",
            key="data.max_input_tokens",
            value=data.max_input_tokens,
            fix="remove data.max_input_tokens to cut the beginning of a long prompt, or data.max_prompt_tokens to cut its end",
        )


def _check_batches(config: Config, seq2seq: bool) -> None:
    data, train = config.data, config.train
    if data.pack_tokens is not None and data.length_buckets:
        raise InputError(
            "length buckets have no effect with data.pack_tokens, because packed sequences have about the same length",
            key="data.length_buckets",
            value=True,
            fix="set data.length_buckets: false, or data.pack_tokens: null",
        )
    if (
        data.pack_tokens is not None
        and train.global_batch_tokens is not None
        and train.global_batch_tokens < data.pack_tokens
    ):
        raise InputError(
            f"one packed sequence may have {data.pack_tokens} tokens (data.pack_tokens), more than a whole batch",
            key="train.global_batch_tokens",
            value=train.global_batch_tokens,
            fix=f"set train.global_batch_tokens: {8 * data.pack_tokens}, or a smaller data.pack_tokens",
        )
    if train.global_batch_tokens is not None and "global_batch_size" in train.model_fields_set:
        raise InputError(
            f"train.global_batch_size = {train.global_batch_size} is set too, but a batch counts either rows or tokens",
            key="train.global_batch_tokens",
            value=train.global_batch_tokens,
            fix="set train.global_batch_tokens: null, or train.global_batch_size: null",
        )
    if train.global_batch_tokens is not None and train.gradient_accumulation_steps is not None:
        raise InputError(
            "with train.global_batch_tokens, the number of accumulation steps follows from each batch and cannot be set",
            key="train.gradient_accumulation_steps",
            value=train.gradient_accumulation_steps,
            fix="remove this key; train.micro_batch_size limits the rows that a worker processes at once",
        )


def _check_metrics(config: Config) -> None:
    data = config.data
    if "entity_f1" in config.eval.metrics and data.dataset is None and data.columns.entities is None:
        raise InputError(
            "the metric entity_f1 compares with the column data.columns.entities, which is null",
            key="eval.metrics",
            value="entity_f1",
            fix="set data.columns.entities to the column with the entities, or remove entity_f1",
        )
    for column in spec_of(config.method).columns:
        if data.dataset is None and getattr(data.columns, column.name, "") is None:
            raise InputError(
                f"{column.why} a {column.name}",
                key=f"data.columns.{column.name}",
                fix=f"set data.columns.{column.name} to the name of the column, or set {column.without}",
            )
    if data.dataset == "clinic":
        validated, fix = bool(data.clinic.validation_rows), "set data.clinic.validation_rows: 100"
    else:
        validated = bool(
            data.validation or data.split.validation or data.split.validation_ids or data.dataset
        )
        fix = "set data.validation: my_other.jsonl, or data.split.validation: 0.1"
    if config.eval.every_steps and not validated:
        raise InputError(
            "evaluations during training need validation rows, but the config has none",
            key="eval.every_steps",
            value=config.eval.every_steps,
            fix=fix,
        )
