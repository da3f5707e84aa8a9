"""Recognition of identifiers of persons by patterns: e-mail, telephone, date of birth, record number.

Names and addresses need a model and are not recognized. Presidio (`pip install presidio-analyzer`) does that; run it on the
output if the chats may contain real persons.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DATE = (
    r"(?:\d{1,2}[./-]\d{1,2}[./-](?:19|20)?\d{2}|(?:19|20)\d{2}[./-]\d{1,2}[./-]\d{1,2}"
    rf"|(?:the\s+)?\d{{1,2}}(?:\.|st|nd|rd|th)?\s+(?:of\s+)?(?:{_MONTHS})[a-z]*\.?,?\s+(?:19|20)\d{{2}}"
    rf"|(?:{_MONTHS})[a-z]*\.?\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+(?:19|20)\d{{2}})"
)
_BIRTH = r"(?:date\s+of\s+birth|birth\s*date|birthday|d\.?o\.?b\.?|born(?:\s+on)?)"
_RECORD = (
    r"(?:m\.?r\.?n\.?|medical\s+record(?:\s+(?:number|no\.?))?|patient\s+(?:id|number|no\.?)|hospital\s+(?:id|number|no\.?)"
    r"|insurance\s+(?:id|number|no\.?)|nhs\s+(?:number|no\.?)|ssn|social\s+security(?:\s+number)?)"
)
PATTERNS = {
    "EMAIL": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    "BIRTH_DATE": re.compile(rf"\b{_BIRTH}\s*(?:is|was|:|-|=)?\s*(?P<found>{_DATE})", re.IGNORECASE),
    "RECORD_NUMBER": re.compile(
        rf"\b{_RECORD}\s*(?:is|was|:|#|-|=)?\s*#?\s*(?P<found>(?=[A-Z0-9-]*\d)[A-Z0-9][A-Z0-9-]{{3,}})\b",
        re.IGNORECASE,
    ),
    # A number with a country code, with a prefix in brackets, in the form 212-555-0198, or after a word for a telephone.
    "PHONE": re.compile(
        r"(?<![\w.])(?P<found>(?:\+|00)\d{1,3}[ ./-]?(?:\(?\d{1,4}\)?[ ./-]?){2,5}\d{2,4}|\(\d{3}\)[ -]?\d{3}-\d{4}|(?<!-)\d{3}-\d{3}-\d{4}(?!-))(?![\w.]?\d)"
        r"|\b(?:phone|telephone|tel|mobile|cell|call)\b[\s.:]*(?:number|no\.?)?[\s:]*(?P<after>\d(?:[ ./-]?\d){6,13})\b",
        re.IGNORECASE,
    ),
}


def find(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, begin, end) of every identifier in a text."""
    for kind, pattern in PATTERNS.items():
        for match in pattern.finditer(text):
            groups = [name for name, value in match.groupdict().items() if value is not None]
            begin, end = match.span(groups[0]) if groups else match.span()
            yield kind, begin, end


def masked(text: str) -> tuple[str, Counter[str]]:
    """Return the text with [KIND] for every identifier, and their numbers by kind."""
    counts: Counter[str] = Counter()
    begin_of_last = len(text) + 1
    for kind, begin, end in sorted(find(text), key=lambda each: (each[1], each[2]), reverse=True):
        if end <= begin_of_last:
            text = f"{text[:begin]}[{kind}]{text[end:]}"
            counts[kind] += 1
            begin_of_last = begin
    return text, counts
