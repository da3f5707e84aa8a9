"""A rule, similar to NegEx, that decides whether a clinical sentence says that a finding is present or absent.

The idea is from Chapman et al. 2001, "A simple algorithm for identifying negated findings and diseases
in discharge summaries": a negation cue applies to the findings that follow it, until something ends its
scope. The lists below are medray's own, short, and English. No cue is found in other languages, so every
finding there is present.

The scope of a cue ("no", "denies", "without", "negative for", …) ends at
- the end of a sentence, a semicolon, the end of a line, or a heading's colon (not the colon of "Denies:"),
- "but" and similar words (however, although, except, …) and words that introduce a cause (because, due to, …),
- a cue of presence ("reports", "has", "positive for", …), unless it is part of the negation ("does not have"),
- a comma that begins a new statement ("no fever, she …", "no fever, currently …").
A comma alone does not end the scope: "denies fever, cough or nausea" denies all three. In "No fever, cough
present" and "fever absent", the word right after the finding decides; it takes precedence over cues before it.
"""

from __future__ import annotations

import re
from typing import Literal

Assertion = Literal["present", "absent"]

_PRESENCE = (
    r"has|have|had|having|reports?|reported|reporting|complain(?:s|ed|ing)? of|endorses?|endorsed|"
    r"admits?(?: to)?|admitted|presents?(?: with)?|presented(?: with)?|presenting(?: with)?|positive for|"
    r"develop(?:s|ed)?|experienc(?:es?|ed|ing)|suffers?(?: from)?|shows?|showed|showing|reveals?|revealed|"
    r"demonstrat(?:es?|ed)|notes?|noted|diagnosed with|consistent with|confirms?|confirmed|taking|takes"
)
_NEGATION = (
    r"no longer|no|not|\w+n['’]t|cannot|never|nor|neither|none of|without|w/o|den(?:y|ies|ied|ying)|"
    r"negative for|free of|free from|absence of|lack of|lacks?|lacking|rules? out"
)
# These phrases contain a word of negation but do not negate the findings that follow.
_NOT_NEGATION = re.compile(
    r"\b(?:not only|no doubt|"
    r"no (?:significant )?(?:change|increase|decrease|improvement|relief)(?: in| of| from)?|"
    r"(?:cannot|can ?not|can['’]t|could not|does not|not) (?:be )?(?:exclude|excluded|rule out|ruled out)|"
    r"not (?:improv|reliev|resolv|controll)\w+(?: by| with)?|"
    r"without (?:relief|improvement|difficulty)(?: of| in| from)?)\b",
    re.IGNORECASE,
)
_CUE = re.compile(rf"\b(?:{_NEGATION})(?:\s+\w+ly)?(?:\s+(?:{_PRESENCE}))?(?!\w)\s*:?", re.IGNORECASE)
_END_OF_SCOPE = re.compile(
    rf"[.!?](?=\s|$)|[;:]|\b(?:{_PRESENCE})\b|"
    r"\b(?:but|however|although|though|yet|nevertheless|whereas|while|except|apart from|aside from|instead|"
    r"because|due to|secondary to|caused by|since|which)\b|"
    r",\s*(?:and\s+)?(?:with|now|currently|still|he|she|they|it|i|we|you|(?:the\s+)?(?:patient|pt)|there|"
    r"is|was|are|were)\b",
    re.IGNORECASE,
)
_BE = r"\s*(?:(?:is|was|are|were|has been|have been)\s+)?"
_ABSENT_AFTER = re.compile(
    rf"{_BE}(?:absent|not (?:present|seen|found|noted|reported|observed)|ruled out)\b", re.IGNORECASE
)
_PRESENT_AFTER = re.compile(rf"{_BE}present\b", re.IGNORECASE)


def assertion(text: str, start: int, end: int) -> Assertion:
    """Return whether the finding `text[start:end]` is present or absent according to its clause in `text`."""
    if _ABSENT_AFTER.match(text, end):
        return "absent"
    if _PRESENT_AFTER.match(text, end):
        return "present"
    before = text[max(0, text.rfind("\n", 0, start) + 1) : start]
    before = _NOT_NEGATION.sub(lambda match: "_" * len(match[0]), before)
    *_, end_of_cue = 0, *(match.end() for match in _CUE.finditer(before))
    return "absent" if end_of_cue and not _END_OF_SCOPE.search(before, end_of_cue) else "present"
