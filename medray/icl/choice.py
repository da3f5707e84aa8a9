"""The choice of k, shots and order by leave-one-out: training documents are answered with examples from all others.

The test documents play no part in it. Everything that was answered is kept, so a stopped choice can be resumed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medray import storage
from medray.config.icl import IclConfig, Order
from medray.errors import InputError
from medray.icl.evaluation import Evaluation
from medray.icl.prompt_files import answer_prompts
from medray.icl.workflow import Workflow

FOLDER, RESULT = "choose", "choose.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Values that are compared. order and k have no effect with few shots, and are then the config's own."""

    shots: int
    order: Order
    k: int

    @property
    def name(self) -> str:
        return f"{self.shots}-{self.order}-k{self.k}"


def choices(icl: IclConfig) -> Iterator[Choice]:
    """Yield the combinations of `icl.choose`, each once. Raises InputError if there is only one."""
    asked = icl.choose
    made = dict.fromkeys(
        Choice(
            shots=shots,
            order=order if shots > 1 else icl.order,
            k=k if shots and icl.strategy == "retrieved" else icl.k,
        )
        for shots in asked.shots or (icl.shots,)
        for order in asked.order or (icl.order,)
        for k in asked.k or (icl.k,)
    )
    if len(made) < 2:
        raise InputError(
            "there is nothing to choose from",
            key="icl.choose",
            fix="set icl.choose.shots: [1, 3, 5], icl.choose.order or icl.choose.k",
        )
    most = max(choice.shots for choice in made)
    if icl.strategy == "retrieved" and most > icl.top_n:
        raise InputError(
            f"{most} shots are more than icl.top_n {icl.top_n}, the number of stored examples",
            key="icl.choose.shots",
            fix=f"set icl.top_n: {most}",
        )
    if icl.search == "mmr" and icl.mmr_fetch is not None and icl.mmr_fetch < max(choice.k for choice in made):
        raise InputError(
            f"a k is above icl.mmr_fetch {icl.mmr_fetch}",
            key="icl.choose.k",
            fix="set a larger icl.mmr_fetch, or remove it",
        )
    return iter(made)


def choose(work: Workflow) -> Workflow:
    """Return the workflow with the best values. Write choose.json with the scores of all combinations.

    Of equal scores, the one with fewer examples wins, then the first.
    """
    combinations = list(choices(work.icl))
    train = work.documents.train
    count = min(work.icl.choose.documents, len(train))
    left_out = [
        train[row] for row in sorted(random.Random(work.file.run.seed).sample(range(len(train)), count))
    ]
    folder = work.folder / FOLDER
    scored: list[tuple[Choice, dict[str, Any]]] = []
    for number, choice in enumerate(combinations, 1):
        evaluation = Evaluation(work)
        ids = None
        if work.icl.strategy == "retrieved" and choice.shots:
            ids = work.select(left_out, folder / f"selected-k{choice.k}.jsonl", choice.k).ids
        shots = evaluation.shots(work.icl.strategy, choice.shots, choice.order)
        prompts = evaluation.build(shots, left_out, ids)
        work.watch.phase(
            "choose", f"{number} of {len(combinations)}: {choice.name}, {count} training documents"
        )
        answers = answer_prompts(
            folder / f"answers-{choice.name}.jsonl",
            prompts,
            {document.id: document for document in left_out},
            evaluation.model,
            evaluation.basis,
            lambda done, total: work.watch.progress("choose", done, total),
        )
        scored.append((choice, evaluation.scorer.scores(left_out, answers)))
    main = evaluation.scorer.main
    best, _ = min(scored, key=lambda each: (-each[1][main]["value"], each[0].shots))
    values = {"shots": best.shots, "order": best.order, "k": best.k}
    storage.write(
        work.folder / RESULT,
        json.dumps(
            {
                "metric": main,
                "documents": count,
                "chosen": values,
                "scores": {choice.name: numbers for choice, numbers in scored},
            },
            indent=1,
        )
        + "\n",
    )
    for choice, numbers in scored:
        work.watch.phase("choose", f"{choice.name}: {main} {numbers[main]['value']:.3f}")
    return work.with_icl(work.icl.model_copy(update=values))
