"""How good a teacher is: labels that equal the gold ones, completions that fit no rule, length of rationales."""

from __future__ import annotations

from dataclasses import dataclass

from medray.data import arithmetic
from medray.data.corpora.published import CorpusOptions
from medray.data.corpora.steps import taught_rows
from medray.data.records import BadRowError


@dataclass(frozen=True)
class TeacherReport:
    """Counts of rows. right: the teacher's label is the gold one.

    comparison: text (equal strings) or equation (equal values; computed with fractions). not_computable: labels that
    are no arithmetic, the parse failures among them; 0 where texts are compared.
    """

    rows: int
    labelled_right: int
    parse_failures_label: int
    parse_failures_rationale: int
    mean_rationale_words: float
    comparison: str
    not_computable: int

    @property
    def accuracy(self) -> float:
        return self.labelled_right / self.rows if self.rows else 0.0


def teacher_report(name: str, root: str, split: str, options: CorpusOptions) -> TeacherReport | None:
    """The report over the whole split, before anything is held out; None where no teacher's words are there."""
    equation = name in ("svamp", "asdiv")
    rows = right = blank_labels = blank_rationales = words = no_value = 0
    for _, _, row, taught in taught_rows(name, root, split, options):
        if taught is None or isinstance(row.row, BadRowError):
            continue
        rows += 1
        gold = row.row["label"]
        if equation:
            no_value += arithmetic.value(taught.label, legacy_and=options.legacy_and) is None
            right += arithmetic.equal(taught.label, gold, legacy_and=options.legacy_and)
        else:
            right += taught.label == gold
        blank_labels += not taught.label.strip()
        blank_rationales += not taught.rationale.strip()
        words += len(taught.rationale.split())
    if not rows:
        return None
    kind = "equation" if equation else "text"
    return TeacherReport(rows, right, blank_labels, blank_rationales, words / rows, kind, no_value)
