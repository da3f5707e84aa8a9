"""The verb `medray icl`: examples for in-context learning that are retrieved from a training set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medray.config.icl import IclFile
    from medray.icl.workflow import Workflow
    from medray.report.console import Console

_STEPS = {
    "index": (
        "embed the training documents and build the index",
        "Embed the training documents and build the index.",
    ),
    "select": (
        "select examples for each test document",
        "Select the most similar training documents for each test document. The index is built first if it is missing.",
    ),
    "prompt": (
        "write the prompts with their examples",
        "Write the prompts with their examples, one file for each kind of examples. No model is loaded but its tokenizer.",
    ),
    "score": (
        "score the answers, with intervals",
        "Score the answers of the run, or those of a file, with intervals and a paired comparison with random examples.",
    ),
    "run": (
        "select, prompt, answer and score",
        "Run all steps: index, select, prompt, answers of a local model or a server, score. Repeat the command to continue after a stop.",
    ),
}


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "icl",
        help="examples retrieved for in-context learning: index, select, prompt, score, run",
        description="Select examples from a training set for each test document, write prompts with them, ask a model and "
        "score its answers. Each step runs those before it as far as they are not done.",
    )
    steps = verb.add_subparsers(dest="step", metavar="STEP", required=True)
    for name, (short, long) in _STEPS.items():
        step = steps.add_parser(name, help=short, description=long)
        step.add_argument("config", help="YAML file as configs/icl.yaml")
        step.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="values of dotted keys; later ones take precedence",
        )
        if name == "score":
            step.add_argument(
                "--answers",
                metavar="FILE",
                help="JSONL file with the columns id and prediction; default: the answers of the run",
            )
        if name == "run":
            step.add_argument(
                "--choose",
                action="store_true",
                help="first compare the values of icl.choose by leave-one-out on training documents, and use the best",
            )
        step.add_argument(
            "--json", action="store_true", help="print the result as one JSON object at the end"
        )
        step.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.config.icl import read_icl
    from medray.icl.documents import run_folder
    from medray.report.console import Console
    from medray.train.run_folder import lock

    file = read_icl(arguments.config, arguments.overrides)
    console = Console(sys.stderr)
    with lock.held(run_folder(file), lambda text: console.phase("lock", text)):
        found = _STEP[arguments.step](_workflow(file, console), console, arguments)
    if arguments.json:
        print(json.dumps(found))
    return 0


def _workflow(file: IclFile, console: Console) -> Workflow:
    from medray.icl.workflow import Watch, Workflow

    watch = Watch(phase=console.phase, progress=console.progress)
    return Workflow(file, watch, cluster=lambda: _cluster(file))


@contextmanager
def _cluster(file: IclFile) -> Iterator[None]:
    """Connect to the cluster of the config, or start a private one, until the block ends."""
    import os

    from medray.cli.cluster import before_import, connect, disconnect

    address = file.cluster.address or os.environ.get("RAY_ADDRESS")
    address = None if address in ("", "local") else address
    before_import(address)
    connect(address)
    try:
        yield
    finally:
        disconnect()


def _index(work: Workflow, console: Console, arguments: argparse.Namespace) -> dict[str, Any]:
    index = work.index
    vectors = index.vectors
    facts: dict[str, Any] = {
        "folder": str(work.index_folder),
        "documents": len(index.ids),
        "kind": "bm25" if vectors is None else vectors.kind,
        "recall": index.recall,
        "fingerprint": index.fingerprint,
    }
    rows: list[tuple[str, ...]] = [
        ("folder", facts["folder"]),
        ("documents", f"{facts['documents']:,}"),
        ("search", "BM25 alone" if vectors is None else f"{vectors.kind} and BM25"),
    ]
    if vectors is not None:
        exact = "exact" if vectors.approximate is None else f"{index.recall:.3f} of an exact search"
        rows.append(("recall of the first ten", exact))
    console.table("index", rows)
    return facts


def _select(work: Workflow, console: Console, arguments: argparse.Namespace) -> dict[str, Any]:
    from medray.icl.workflow import BEST

    found = work.selection
    counts = found.counts(work.icl.shots)
    console.table(
        "selection",
        [
            ("documents", f"{counts['documents']:,}"),
            (f"fewer than {found.top_n} examples (icl.top_n)", f"{counts['fewer_than_top_n']:,}"),
            (f"fewer than {work.icl.shots} examples (icl.shots)", f"{counts['fewer_than_shots']:,}"),
            ("no example", f"{counts['without_example']:,}"),
            ("file", str(work.folder / BEST)),
        ],
    )
    return {"file": str(work.folder / BEST), **counts}


def _prompt(work: Workflow, console: Console, arguments: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from medray.icl.evaluation import Evaluation

    evaluation = Evaluation(work)
    found = {}
    for shots in filter(None, (evaluation.asked, evaluation.compared if work.icl.compare_random else None)):
        _, counts = evaluation.prompts(shots)
        found[shots.name] = {"file": str(work.folder / f"prompts-{shots.name}.jsonl"), **asdict(counts)}
    rows: list[tuple[str, ...]] = [("examples", "prompts", "fewer", "cut", "too long", "file")]
    rows += [
        (name, *(f"{facts[key]:,}" for key in ("prompts", "fewer", "cut", "too_long")), facts["file"])
        for name, facts in found.items()
    ]
    console.table("prompts", rows)
    return found


def _score(work: Workflow, console: Console, arguments: argparse.Namespace) -> dict[str, Any]:
    from pathlib import Path

    from medray.icl.evaluation import Evaluation

    answers = getattr(arguments, "answers", None)
    return _show_scores(Evaluation(work).score(None if answers is None else Path(answers)), work, console)


def _run(work: Workflow, console: Console, arguments: argparse.Namespace) -> dict[str, Any]:
    from medray.icl.evaluation import Evaluation

    if arguments.choose:
        from medray.icl.choice import choose

        work = choose(work)
        console.table("chosen", [(name, str(getattr(work.icl, name))) for name in ("shots", "order", "k")])
    evaluation = Evaluation(work)
    evaluation.answer_all()
    return _show_scores(evaluation.score(), work, console)


def _show_scores(found: dict[str, Any], work: Workflow, console: Console) -> dict[str, Any]:
    from medray.icl.evaluation import SCORES

    metric = found["metric"]
    names = (
        metric,
        metric.replace("f1", "precision"),
        metric.replace("f1", "recall"),
        metric.replace("f1", "unparsed"),
    )
    rows: list[tuple[str, ...]] = [("examples", "documents", names[0], "95 % interval", *names[1:])]
    for label, numbers in found["scores"].items():
        first, *others = (numbers[name] for name in names)
        rows.append(
            (
                label,
                str(numbers["documents"]),
                f"{first['value']:.3f}",
                _interval(first),
                *(f"{other['value']:.3f}" for other in others),
            )
        )
    console.table("scores", rows)
    for label, difference in found["differences"].items():
        if difference["value"] is not None:
            chance = "" if difference["p"] is None else f", p {difference['p']:.3f}"
            console.phase(
                "difference",
                f"{label}: {difference['value']:+.3f} {_interval(difference)}{chance}, {difference['documents']} documents",
            )
    console.table("run", [("random examples", found["random_examples"]), ("file", str(work.folder / SCORES))])
    return found


def _interval(numbers: dict[str, Any]) -> str:
    return "" if numbers["low"] is None else f"[{numbers['low']:.3f}, {numbers['high']:.3f}]"


_STEP = {"index": _index, "select": _select, "prompt": _prompt, "score": _score, "run": _run}
