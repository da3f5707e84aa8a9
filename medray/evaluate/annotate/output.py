"""The rows of an annotated file, and the figures over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from medray.evaluate.annotate.asking import Annotation
from medray.evaluate.annotate.items import ReadCounts
from medray.evaluate.annotate.replies import STATES


@dataclass(kw_only=True, slots=True)
class Figures:
    """Counts of records and samples.

    records: that were annotated or are pending. explained: with a rationale that was kept. pending: without all of their
    samples, because requests failed or the budget was spent. written: rows of the file. samples: by state. first_right,
    first_known: records whose first sample was right, and that have a first sample.
    """

    records: int = 0
    explained: int = 0
    pending: int = 0
    written: int = 0
    samples: Counter[str] = field(default_factory=Counter)
    first_right: int = 0
    first_known: int = 0

    def to_json(self, annotation: Annotation, read: ReadCounts) -> dict[str, Any]:
        total = self.samples.total()
        return {
            "records": self.records,
            "with_rationale": self.explained,
            "without_rationale": self.records - self.explained - self.pending,
            "pending": self.pending,
            "written": self.written,
            "bad_rows": read.bad_rows,
            "left_out": dict(read.left_out),
            "compare": annotation.compare,
            "samples": {state: self.samples[state] for state in STATES},
            "shares": {state: self.samples[state] / total if total else None for state in STATES},
            "share_with_rationale": self.explained / self.records if self.records else None,
            "first_sample_right": self.first_right / self.first_known if self.first_known else None,
        }


def rows(annotation: Annotation, figures: Figures) -> Iterator[dict[str, Any]]:
    """Yield the rows to write in the order of the records; updates `figures`.

    A pending record is left out: the next start continues with it.
    """
    config = annotation.config
    for item in annotation.items:
        found = annotation.found(item)
        figures.records += 1
        figures.samples.update(read.state for read in found.reads)
        if found.reads:
            figures.first_known += 1
            figures.first_right += found.reads[0].state == "right"
        if found.pending:
            figures.pending += 1
            continue
        figures.explained += bool(found.rationales)
        if not found.rationales and config.filter.others == "drop":
            continue
        figures.written += 1
        kept = list(found.rationales) if config.filter.keep == "all" else "".join(found.rationales)
        own = getattr(item.record, "rationale", None) if config.column == "key_words" else None
        yield item.row | ({"rationale": own} if own else {}) | ({config.column: kept} if kept else {})
