"""Scores of an untuned model without examples, and with the same number of random, similar and reranked ones.

    MEDRAY_CORPORA=/data .venv/bin/python benchmarks/icl_quality.py FOLDER [--documents N] [--shots N] [--dataset NAME]
        [--model NAME] [key=value ...]

Answers N documents (20) with each kind of examples and prints entity or relation F1 with intervals, and the paired
differences to random examples. FOLDER keeps all answers: repeat the command to continue, or to add documents. Examples
are shown as turns, because a small chat model does not follow a long message with examples in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

KINDS: dict[str, list[str]] = {
    "zero-shot": ["icl.shots=0"],
    "random": ["icl.strategy=random"],
    "similar": ["icl.rerank=none"],
    "reranked": ["icl.rerank=fusion"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what retrieved examples add.")
    parser.add_argument("folder")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--dataset", default="bc5cdr_chemical")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    asked, overrides = parser.parse_known_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from medray.config.icl import read_icl
    from medray.icl.evaluation import Evaluation
    from medray.icl.workflow import Watch, Workflow

    folder = Path(asked.folder)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = (
        asked.dataset.removesuffix("_chemical").removesuffix("_disease")
        if "bc5cdr" in asked.dataset
        else asked.dataset
    )
    tree: dict[str, Any] = {
        "data": {"dataset": asked.dataset, "root": f"{os.environ['MEDRAY_CORPORA']}/{corpus}"},
        "model": {"name": asked.model},
        "icl": {
            "shots": asked.shots,
            "as_turns": True,
            "top_n": max(10, asked.shots),
            "compare_random": False,
        },
        "answers": {"documents": asked.documents, "max_new_tokens": 96},
    }
    config = folder / "icl.yaml"
    config.write_text(json.dumps(tree))
    watch = Watch(phase=lambda name, detail: print(f"{name}: {detail}", file=sys.stderr, flush=True))
    predictions, scores, differences = {}, {}, {}
    for kind, values in KINDS.items():
        own = [f"run.storage={folder}", f"run.name={kind}", f"icl.index_dir={folder}/index"]
        evaluation = Evaluation(Workflow(read_icl(config, [*own, *values, *overrides]), watch))
        predictions[kind] = evaluation.answers(evaluation.asked)
        scores[kind] = evaluation.scorer.scores(evaluation.test, predictions[kind])
    main_number = evaluation.scorer.main
    for kind in ("similar", "reranked"):
        differences[f"{kind} - random"] = evaluation.scorer.compare(
            evaluation.test, predictions[kind], predictions["random"]
        )
    print(json.dumps({"shots": asked.shots, "scores": scores, "differences": differences}, indent=1))
    for kind, numbers in scores.items():
        found = numbers[main_number]
        interval = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
        print(f"{kind:10} {main_number} {found['value']:.3f}{interval}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
