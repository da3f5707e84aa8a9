"""ROUGE of the sections of a clinical note, found by the headings that start their lines.

The four sections are those of the MEDIQA full-note task: what the patient says (subjective), the examination, the results,
and assessment with plan.
"""

from __future__ import annotations

import re

import numpy as np

from medray.evaluate.metrics.measured import Measured, Numbers, ratio
from medray.evaluate.metrics.rouge import DIGITS, scorer
from medray.evaluate.metrics.rows import MetricError, Rows, Settings

# Section → headings, as regular expressions over lower-case text.
HEADINGS = {
    "subjective": r"subjective|chief complaint|cc|reason for (?:visit|consultation)|history|hpi|(?:brief )?history of (?:the )?present"
    r"(?:ing)? illness|review of systems|ros|(?:past |family |social )*(?:medical |surgical )*history|pmh|psh|"
    r"(?:current )?medications?|allerg(?:y|ies)|interval history",
    "exam": r"objective|(?:physical )?exam(?:ination)?|pe|vitals?(?: signs)?|vital signs reviewed",
    "results": r"results?|findings|lab(?:oratory)?s?(?: results| data)?|imaging|diagnostic (?:studies|results)|radiology|studies",
    "assessment_and_plan": r"assessment(?: (?:and|&) plan)?|a/p|a&p|plan|impression|diagnos[ie]s|recommendations?|instructions?|"
    r"disposition|follow[- ]?up",
}
KINDS = ("rouge1", "rouge2", "rougeL")
_HEADING = {
    name: re.compile(rf"[\s#*\d.)]*(?:{pattern})\s*\**\s*(?::|[-–—]\s|$)\**", re.IGNORECASE)
    for name, pattern in HEADINGS.items()
}


def sections(rows: Rows, settings: Settings) -> Measured:
    """Return ROUGE of each section over the rows whose reference has it, and the share of answers without it.

    A section that the answer lacks scores 0. Text before the first heading belongs to no section.
    """
    wanted = [split_sections(truth.text) for truth in rows.truths]
    there = [name for name in HEADINGS if any(name in each for each in wanted)]
    if not there:
        raise MetricError(
            f"none of {len(wanted)} references has a line that begins with a known heading",
            "use notes with headings such as 'HISTORY OF PRESENT ILLNESS:', or the metric rouge",
        )
    measures = scorer(kinds=KINDS)
    width = len(KINDS) + 2
    counts = np.zeros((len(wanted), len(there), width))
    for row, (said, want) in enumerate(zip(rows.said, wanted, strict=True)):
        have = split_sections(said)
        for place, name in enumerate(there):
            if name in want:
                scores = measures(have.get(name, ""), want[name])
                counts[row, place] = [*scores, name not in have, 1]

    def numbers(sums: np.ndarray) -> Numbers:
        table = sums.reshape(*sums.shape[:-1], len(there), width)
        found = {}
        for place, name in enumerate(there):
            total = table[..., place, -1]
            for column, kind in enumerate(KINDS):
                found[f"{name}_{kind}"] = 100 * ratio(table[..., place, column], total)
            found[f"{name}_missing"] = ratio(table[..., place, len(KINDS)], total)
        return found

    shares = ", ".join(f"{name} {int(counts[:, place, -1].sum())}" for place, name in enumerate(there))
    return Measured(
        statistics=counts.reshape(len(wanted), -1),
        numbers=numbers,
        digits=DIGITS,
        notes=(f"rows whose reference has the section: {shares}",),
    )


def split_sections(text: str) -> dict[str, str]:
    """Return the text of each section of a note, without its heading; parts of one section are joined by a newline."""
    found: dict[str, list[str]] = {}
    name = None
    for line in text.splitlines():
        for candidate, heading in _HEADING.items():
            if match := heading.match(line):
                name, line = candidate, line[match.end() :]
                found.setdefault(candidate, [])
                break
        if name is not None and line.strip():
            found[name].append(line.strip())
    return {section: "\n".join(lines) for section, lines in found.items()}
