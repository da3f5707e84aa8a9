"""The README.md of exported weights: what they were made from and how, without any text of a record."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.config.method_specs import spec_of
from medray.data.corpora.published import CORPORA
from medray.models.export.usage import FILE, Base, Usage, example
from medray.train.run_folder.files import DATA, read_data_notes
from medray.train.run_folder.finished_run import FinishedRun

if TYPE_CHECKING:  # which imports torch
    from medray.models.export.verify import Comparison

CAUTION = """## Before it is used

These weights were tuned on medical text. They have not been validated for diagnosis, treatment or any other decision
about a patient, and what they write may be wrong, incomplete or biased while it reads well. Clinicians must judge them
for the purpose at hand before they are used near a patient, and the rules for medical software of the country of use
apply. A language model can repeat what it was trained on: share these weights only as the training data may be shared.
"""


@dataclass(frozen=True)
class Made:
    """The exported weights that a card describes.

    format: adapter, full (the run trained all weights), merged, nf4 or gguf. kind: type in which the weights are stored.
    checked: one line about the check after writing, or why there was none. measured: comparison of these weights with
    those of the run; None if it was not measured. same: whether these weights are bit for bit those that the run was
    evaluated with, so that the run's metrics apply to them. by: the command that wrote them.
    """

    format: str
    kind: str
    checked: str
    notes: tuple[str, ...] = ()
    measured: Comparison | None = None
    same: bool = False
    by: str = "medray export"


def model_card(
    run: FinishedRun, base: Base, made: Made, usage: Usage | None = None, file: str | None = None
) -> str:
    """Return the card in Markdown, with the header that model hubs read. usage: how to prompt the weights, if known.

    file: name of a GGUF file.
    """
    parts = [
        _header(run, base, made),
        f"# {run.config.run.name}: {_format(made)}\n\nWritten by `{made.by}`.\n",
        "" if usage is None else _how_to_ask(usage, file),
        _section("Made from", _origin(run, base)),
        CAUTION,
        _section("Data", _data(run)),
        _section("Training", _training(run)),
        _section("Metrics", _metrics(run, made)),
        _section("Versions", sorted(run.summary.get("versions", {}).items())),
        _section("Check", [("after writing", made.checked), *(("note", note) for note in made.notes)]),
    ]
    return "\n".join(parts)


def _header(run: FinishedRun, base: Base, made: Made) -> str:
    lines = [f"library_name: {'peft' if made.format == 'adapter' else 'transformers'}"]
    if base.kind in ("hub", "package"):
        lines.append(f"base_model: {base.name}")
    if base.licence and re.fullmatch(r"[\w.-]+", base.licence):
        lines.append(f"license: {base.licence.lower()}")
    return "\n".join(["---", *lines, "tags: [medray, medical]", "---", ""])


def _how_to_ask(usage: Usage, file: str | None) -> str:
    """Return the prompts, limits and decoding, and Python code that prompts the model as it was trained."""
    one = usage.architecture == "seq2seq" or not usage.chat_template
    where = "the text" if one else "the user's message"
    rows: list[tuple[str, Any]] = []
    if usage.records == "conversation":
        rows.append(("input", "the messages of a conversation as they are, without a prompt of medray's"))
    for lang, tasks in [("", usage.tasks), *usage.languages.items()]:
        of = f" ({lang})" if lang else ""
        for task, asked in tasks.items():
            if usage.records == "prompted":
                shown = _code(asked.before if one else asked.prefix) + (
                    f" and after it {_code(asked.after)}" if one and asked.after else ""
                )
                rows.append((f"{task}{of}: before the input, in {where}", shown))
            rows.append((f"{task}{of}: longest answer in training", f"{asked.max_answer_tokens:,} tokens"))
    system = next(iter(usage.tasks.values())).system
    template = "the tokenizer's chat_template" if usage.chat_template else "none: one text"
    rows += [
        ("system message", "none" if system is None else _code(system)),
        ("template", f"{usage.template}; {template}"),
        ("longest input in training", f"{usage.max_input_tokens:,} tokens; longer ones were cut"),
        (
            "decoding of the evaluation",
            ", ".join(f"{name}={value}" for name, value in usage.generation.items()),
        ),
        ("type of the weights", usage.dtype),
    ]
    if usage.needs_key_words:
        rows.append(
            ("the label's input", "holds the key words that the rationale task found, before the rest")
        )
    same = f"`{FILE}` has the same for programs. In this folder:"
    return f"{_section('How to ask', rows)}\n{same}\n\n```python\n{example(usage, file)}\n```\n"


def _code(text: str) -> str:
    """Return a Python literal for a table cell, so that line ends and spaces are visible."""
    return f"`{text!r}`" if "`" not in text else repr(text)


def _format(made: Made) -> str:
    return {
        "adapter": "an adapter",
        "full": f"all weights ({made.kind})",
        "merged": f"merged weights ({made.kind})",
        "nf4": "merged weights in 4 bits (NF4)",
        "gguf": f"merged weights as GGUF ({made.kind})",
    }[made.format]


def _section(title: str, rows: Any) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines, ""]) if lines else ""


def _cell(value: Any) -> str:
    text = str(value)
    if isinstance(value, float):
        text = f"{value:.6g}"
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _origin(run: FinishedRun, base: Base) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("base", base.name)]
    if base.revision:
        rows.append(("revision", base.revision))
    rows.append(("licence of the base", base.licence or "not known here: see where the base was published"))
    if run.config.model.adapter:
        rows.append(("continued from the adapter", Path(run.config.model.adapter).name))
    if began := read_data_notes(run.folder / DATA).get("begin_from"):
        rows.append(("began with the weights of the run", began))
    if run.config.data.tokenizer == "train":
        rows.append(
            (
                "tokenizer",
                "trained on the records: its vocabulary holds words of them, names of people among them",
            )
        )
    return rows


def _data(run: FinishedRun) -> list[tuple[str, Any]]:
    data = run.config.data
    rows: list[tuple[str, Any]] = []
    if data.dataset:
        rows.append(("data set", data.dataset))
        if corpus := CORPORA.get(data.dataset):
            rows.append(("its licence", corpus.licence))
    for split, entries in (("train", data.train), ("validation", data.validation)):
        rows += [(f"{split} file", _file_name(str(entry.path))) for entry in entries]
    for split, manifest in run.manifests.items():
        counts = f"{manifest['rows']:,} rows, {manifest['rejected']:,} rejected"
        dropped = sum(manifest["dropped"].values())
        rows.append((split, counts + (f", {dropped:,} left out" if dropped else "")))
        rows += [
            (f"{split}: {task}", f"{found['tokens']:,} tokens, {found['loss_tokens']:,} with loss")
            for task, found in manifest["tasks"].items()
        ]
    if run.tokens is not None:
        rows.append(("fingerprint of the tokens", run.tokens.name))
    if order := run.summary.get("order_sha256"):
        rows.append(("hash of the ids in the order trained", order))
    return rows


def _file_name(path: str) -> str:
    """Return the name of a file without folders; for a URL, also without what may be a password or a signature."""
    return re.sub(r"[?#].*", "", path, flags=re.DOTALL).rstrip("/").rpartition("/")[2]


def _training(run: FinishedRun) -> list[tuple[str, Any]]:
    config, summary = run.config, run.summary
    train = config.train
    parameters = summary.get("parameters", {})
    batch = (
        f"{train.global_batch_tokens} tokens"
        if train.global_batch_tokens
        else f"{train.global_batch_size} rows"
    )
    rows: list[tuple[str, Any]] = [
        *spec_of(config.method).described,
        ("adapter", _adapter(run)),
    ]
    if run.adapter is not None and config.peft.type in ("lora", "adalora"):
        # From peft's own settings: an adapter that the run continued from has its own.
        rows.append(
            (
                "alpha, dropout of the adapter",
                f"{run.adapter['lora_alpha']:g}, {run.adapter['lora_dropout']:g}",
            )
        )
        flags = [name for name in ("rslora", "dora") if run.adapter.get(f"use_{name}")]
        rows += [("variant of the adapter", ", ".join(flags))] if flags else []
    if config.model.quantization != "none":
        rows.append(("base in training", f"{config.model.quantization}, 4 bits"))
    rows += [
        ("trained parameters", f"{parameters.get('trainable', 0):,} of {parameters.get('total', 0):,}"),
        ("steps, epochs", f"{summary.get('steps')}, {summary.get('epochs')}"),
        ("weights of step", summary.get("exported_step", summary.get("steps"))),
        ("samples, tokens", f"{summary.get('samples', 0):,}, {summary.get('tokens', 0):,}"),
        ("global batch", batch),
        ("optimizer", f"{train.optimizer.name}, learning rate {train.optimizer.lr:g}"),
        ("weight decay", train.optimizer.weight_decay),
        ("schedule", train.scheduler.name),
        ("precision", train.precision),
        ("seed", config.run.seed),
        ("workers", summary.get("world_size")),
    ]
    return rows


def _adapter(run: FinishedRun) -> str:
    peft = run.config.peft
    if run.adapter is None:
        return "none: all weights"
    return f"lora rank {run.adapter['r']}" if peft.type == "lora" else peft.describe()


def _metrics(run: FinishedRun, made: Made) -> list[tuple[str, Any]]:
    """Return the metrics of these weights. If they were rounded, the metrics of the run belong to other weights."""
    summary = run.summary
    rows: list[tuple[str, Any]] = [
        (
            "training loss, first and last step",
            f"{summary.get('train_loss_first')}, {summary.get('train_loss_last')}",
        )
    ]
    if made.measured is None:
        rows += [] if made.same else [("loss of these weights", made.checked)]
    else:
        rows += _measured(made.measured)
    if not made.same:
        rows.append(("other metrics of these weights", "not measured: the run's own are in its report"))
        return rows
    found = summary.get("eval", {})
    before, after = found.get("before") or {}, found.get("after") or {}
    for name in sorted({*before, *after} - {"alpha"}):  # alpha weights the loss and measures nothing
        shown = [_cell(values[name]) if name in values else "-" for values in (before, after)]
        rows.append((f"{name} on validation, before and after", ", ".join(shown)))
    return rows


def _measured(found: Comparison) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("rows of the loss below", found.rows)]
    for name, loss in (("these weights", found.loss_written), ("the untuned model", found.loss_base)):
        rows.append((f"loss of {name}", "not measured" if loss is None else loss))
    kept = found.kept_percent
    rows.append(("kept of what training gained", found.verdict if kept is None else f"{kept:.4g} %"))
    return rows
