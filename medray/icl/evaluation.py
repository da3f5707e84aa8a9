"""Prompts, answers and scores of one run, for the asked examples and for those that they are compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.evaluate.scoring.bootstrap import Bootstrap
from medray.icl import line_file
from medray.icl.asking import LocalModel, Model, named_model
from medray.icl.documents import Document
from medray.icl.prompt_files import PromptCounts, answer_prompts, read_answers, write_prompts
from medray.icl.prompting import Prompt, PromptTemplate, Shots, drawn, prompt, retrieved, shots_name
from medray.icl.remote import RemoteModel
from medray.icl.scores import NOT_MEASURED, Scorer
from medray.icl.selection.exclusion import Exclusion
from medray.icl.workflow import Workflow

TEMPLATE, SCORES = "template.json", "scores.json"


class Evaluation:
    """The second half of a run: what is asked, what is answered, and how good it is."""

    def __init__(self, work: Workflow) -> None:
        self.work, self.icl, self.folder = work, work.icl, work.folder
        self._file = work.file

    @cached_property
    def model(self) -> Model:
        """Return the model that answers. It refuses what it may not receive before anything is computed."""
        if self._file.backend is None:
            return LocalModel(named_model(self._file), self._file.answers.batch_size)
        counts = self.icl.max_prompt_tokens is not None
        count = LocalModel(named_model(self._file), 1).count if counts else None
        return RemoteModel(self._file, len(self.test), count)

    @cached_property
    def test(self) -> tuple[Document, ...]:
        """Return the documents that are answered."""
        return self.work.documents.test[: self._file.answers.documents]

    @cached_property
    def scorer(self) -> Scorer:
        score = self._file.score
        return Scorer(
            answer=self.work.documents.extraction.answer,
            ordered=score.pairs == "ordered",
            bootstrap=Bootstrap(samples=score.samples, seed=self._file.run.seed),
        )

    @cached_property
    def asked(self) -> Shots:
        """Return the examples that the config asks for, with the token budget of the model if it has none."""
        return self.shots(self.icl.strategy, self.icl.shots)

    def shots(self, strategy: Any, count: int, order: Any = None) -> Shots:
        """Return examples with the order, form and budget of the config."""
        budget = self.icl.max_prompt_tokens
        context = self.model.context()
        if context is not None:
            most = context - self._file.answers.max_new_tokens
            if most < 1 or (budget is not None and budget > most):
                raise InputError(
                    f"the model reads {context} tokens, of which answers.max_new_tokens takes "
                    f"{self._file.answers.max_new_tokens}",
                    key="icl.max_prompt_tokens",
                    value=budget,
                    fix=f"set icl.max_prompt_tokens: {most}"
                    if most >= 16
                    else "set answers.max_new_tokens: 64",
                )
            budget = budget or most
        return Shots(
            strategy=strategy,
            count=count,
            order=order or self.icl.order,
            as_turns=self.icl.as_turns,
            max_tokens=budget,
        )

    @property
    def compared(self) -> Shots | None:
        """Return the random examples of the same number and budget; None if they would be the asked ones."""
        if self.icl.strategy == "random" or not self.icl.shots:
            return None
        return replace(self.asked, strategy="random")

    @cached_property
    def template(self) -> PromptTemplate:
        return PromptTemplate(statement=self.work.documents.statement)

    @cached_property
    def basis(self) -> str:
        """Return the hash of what answers must share to be compared: the model, the template and the token budget."""
        values = [self.model.identity, asdict(self.template), self.icl.as_turns, self.asked.max_tokens]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]

    def build(
        self, shots: Shots, test: Sequence[Document], ids: Mapping[str, Sequence[str]] | None = None
    ) -> list[Prompt]:
        """Return the prompts of documents. ids: the selected examples of each, for strategy: retrieved."""
        train = self.work.documents.train
        examples: Mapping[str, Sequence[Document]]
        if not shots.count:
            examples = {document.id: () for document in test}
        elif shots.strategy == "retrieved":
            examples = retrieved(self.work.selection.ids if ids is None else ids, test, train)
        else:
            exclusion = Exclusion(train, test, self.icl.near_duplicates)
            examples = drawn(shots.strategy, test, train, shots.count, exclusion, self._file.run.seed)
        return [
            prompt(document, examples[document.id], self.template, shots, self.model.count)
            for document in test
        ]

    def prompts(self, shots: Shots) -> tuple[list[Prompt], PromptCounts]:
        """Return the prompts of the test documents and write them to their file, with the template next to it."""
        made = self.build(shots, self.test)
        write_prompts(self.folder / f"prompts-{shots.name}.jsonl", made)
        storage.write(self.folder / TEMPLATE, self.template.to_json())
        counts = PromptCounts.of(made, shots.count)
        self.work.watch.phase(
            "prompts",
            f"{shots.name}: {counts.prompts:,} prompts with {counts.examples:,} examples; {counts.fewer:,} have fewer than "
            f"{shots.count}, {counts.cut:,} of them for the token budget"
            + (f"; {counts.too_long:,} are too long without examples" if counts.too_long else ""),
        )
        return made, counts

    def answers(self, shots: Shots) -> dict[str, str]:
        """Return the model's answers to the prompts of `shots`, by document. Finished ones are not computed again."""
        made, _ = self.prompts(shots)
        self.work.watch.phase("answers", f"{shots.name}: {len(made):,} prompts")
        return answer_prompts(
            self._answers_file(shots.name),
            made,
            {document.id: document for document in self.test},
            self.model,
            self.basis,
            lambda done, total: self.work.watch.progress("answers", done, total),
        )

    def answer_all(self) -> None:
        """Answer the prompts of the asked examples, and of random ones if `icl.compare_random` says so."""
        if self._file.backend is not None:
            self.work.watch.phase("answers", f"by {self._file.backend.base_url or self._file.backend.file}")
        self.answers(self.asked)
        if self.icl.compare_random and self.compared is not None:
            self.answers(self.compared)

    def score(self, answers: Path | None = None) -> dict[str, Any]:
        """Score all answers in the folder of the run, write scores.json and scores-NAME.jsonl, and return the former.

        answers: a file that is scored instead of those of the asked examples. Raises InputError if there are no answers.
        """
        # Not self.asked.name, which needs the model: without answers nothing is loaded.
        name = shots_name(self.icl.strategy, self.icl.shots) if answers is None else "file"
        path = self._answers_file(name) if answers is None else answers
        if not path.is_file():
            raise InputError("there are no answers yet", file=path, fix="run medray icl run CONFIG first")
        known = {document.id for document in self.test}
        own = self.build(self.asked, self.test) if answers is None else None
        predictions = {name: self._known(read_answers(path, own), known, path)}
        if unanswered := len(known) - len(predictions[name]):
            self.work.watch.phase(
                "scores",
                f"{unanswered:,} of {len(known):,} documents have no answer to their prompt in {path.name}: they are not scored",
            )
        for other in sorted(self.folder.glob("answers-*.jsonl")):
            label = other.stem.removeprefix("answers-")
            if label == name:
                continue
            if line_file.about(other).get("basis") != self.basis:
                self.work.watch.phase(
                    "scores", f"{other.name} is of another model, template or budget: left out"
                )
            else:
                same = self.compared is not None and self.compared.name == label
                prompts = self.build(self.compared, self.test) if same and self.compared else None
                found = {each: text for each, text in read_answers(other, prompts).items() if each in known}
                if found:
                    predictions[label] = found
        found_scores = {label: self.scorer.scores(self.test, found) for label, found in predictions.items()}
        for label, found in predictions.items():
            lines = [json.dumps(row) + "\n" for row in self.scorer.per_document(self.test, found)]
            storage.write(self.folder / f"scores-{label}.jsonl", "".join(lines))
        random_name = None if self.compared is None else self.compared.name
        result = {
            "asked": name,
            "metric": self.scorer.main,
            "test_documents": len(self.test),
            "unanswered": unanswered,
            "scores": found_scores,
            "differences": {
                f"{name} - {label}": self.scorer.compare(self.test, predictions[name], found)
                for label, found in predictions.items()
                if label != name
            },
            "random_examples": self._said_of_random(random_name, predictions),
            "settings": asdict(self.asked),
        }
        storage.write(self.folder / SCORES, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
        return result

    def _said_of_random(self, name: str | None, predictions: Mapping[str, Any]) -> str:
        """Return whether random examples of the same number and budget were measured."""
        if name is None:
            return "the asked examples are random" if self.icl.shots else "no examples were asked for"
        return "measured" if name in predictions else NOT_MEASURED

    def _known(self, found: Mapping[str, str], known: set[str], path: Path) -> dict[str, str]:
        kept = {name: text for name, text in found.items() if name in known}
        if not kept:
            raise InputError(
                f"none of the answers belongs to the prompts of this config and one of its {len(known)} test documents",
                file=path,
                fix="run medray icl run CONFIG again, or use answers to these documents with their ids",
            )
        return kept

    def _answers_file(self, name: str) -> Path:
        return self.folder / f"answers-{name}.jsonl"
