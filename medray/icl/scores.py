"""Scores of answers: the metrics of `medray eval` (ner_f1, re_f1) with intervals, compared with random examples."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medray.evaluate.metrics.extraction import ner_f1, parse_relations, re_f1
from medray.evaluate.metrics.measured import Measured
from medray.evaluate.metrics.rows import Reference, Rows, Settings, answers_alone
from medray.evaluate.scoring.bootstrap import Bootstrap, differences, intervals
from medray.icl.documents import Document, as_json

NOT_MEASURED = "not measured"
_PAIR = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])?\s*(.+?)\s*(?:\||->|→|;|,)\s*([^|;,]+?)\s*$")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """The way in which answers are compared. answer: what an answer contains."""

    answer: Literal["entities", "relations"]
    ordered: bool
    bootstrap: Bootstrap

    @property
    def main(self) -> str:
        """Return the name of the number that decides which prompts are better."""
        return "ner_f1" if self.answer == "entities" else "re_f1"

    def measure(self, documents: Sequence[Document], predictions: Mapping[str, str]) -> Measured:
        """Return the counts of each document that has a prediction, in the order of the documents.

        The first JSON list of a prediction counts, else one item per line; otherwise it is unparsed and empty.
        """
        answered = [document for document in documents if document.id in predictions]
        said, _ = answers_alone([predictions[document.id] for document in answered], None)
        rows = Rows(
            ids=tuple(document.id for document in answered),
            predictions=tuple(map(self.readable, said)),
            references=tuple(Reference(as_json(document.answer)) for document in answered),
        )
        settings = Settings(ordered=self.ordered)
        return ner_f1(rows, settings) if self.answer == "entities" else re_f1(rows, settings)

    def readable(self, prediction: str) -> str:
        """Return a prediction as a JSON list if it lists one pair per line, which the metric does not read."""
        if self.answer == "entities" or parse_relations(prediction) is not None:
            return prediction
        lines = [line for line in prediction.splitlines() if line.strip()]
        pairs = [found.groups() for line in lines if (found := _PAIR.match(line))]
        if not lines or len(pairs) < len(lines) or not (len(lines) > 1 or _BULLET.match(lines[0])):
            return prediction
        return json.dumps([list(pair) for pair in pairs], ensure_ascii=False)

    def scores(self, documents: Sequence[Document], predictions: Mapping[str, str]) -> dict[str, Any]:
        """Return {"documents": count, number: {"value", "low", "high"}}. low, high: None without a bootstrap."""
        measured = self.measure(documents, predictions)
        [found] = intervals([measured], _groups(documents, predictions), self.bootstrap)
        numbers = {
            name: {
                "value": value,
                "low": found[name].low if name in found else None,
                "high": found[name].high if name in found else None,
            }
            for name, value in measured.values().items()
        }
        return {"documents": len(measured.statistics), **numbers}

    def compare(
        self, documents: Sequence[Document], first: Mapping[str, str], second: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the difference of the main number, first minus second, over the documents that both answered.

        {"documents", "value", "low", "high", "p"}: by a paired bootstrap over documents.
        """
        both = [document for document in documents if document.id in first and document.id in second]
        if not both:
            return {"documents": 0, "value": None, "low": None, "high": None, "p": None}
        one, other = (self.measure(both, each) for each in (first, second))
        groups = _groups(both, first)
        [found] = differences([other], [one], groups, self.bootstrap)
        difference = found[self.main]
        interval = difference.interval
        return {
            "documents": len(both),
            "value": difference.value,
            "low": None if interval is None else interval.low,
            "high": None if interval is None else interval.high,
            "p": difference.p,
        }

    def per_document(
        self, documents: Sequence[Document], predictions: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Return the counts of each document: right, answered and gold items, whether it is unparsed, and exact."""
        names = ("right", "answered", "gold", "unparsed", "exact")
        measured = self.measure(documents, predictions)
        answered = [document.id for document in documents if document.id in predictions]
        return [
            {"id": name} | dict(zip(names, map(int, row[:5]), strict=True))
            for name, row in zip(answered, measured.statistics.tolist(), strict=True)
        ]


def _groups(documents: Sequence[Document], predictions: Mapping[str, str]) -> list[str]:
    """Return the group of each answered document, which the bootstrap draws together: sentences of one text, a patient."""
    return [document.group or document.id for document in documents if document.id in predictions]
