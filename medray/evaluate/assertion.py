"""Whether a clinical sentence says that a finding is present or absent, by a rule in the way of NegEx.

The idea is that of Chapman et al. 2001, "A simple algorithm for identifying negated findings and diseases
in discharge summaries": a cue of negation reaches forward over the findings that follow, until something
ends its scope. The lists below are our own, short, and English; another language finds no cue, so
everything in it is present.

Scope of a cue ("no", "denies", "without", "negative for", …) ends at
- the end of a sentence, a semicolon, a line, or a heading's colon (not the colon of "Denies:"),
- "but" and its kin (however, although, except, …) and words that give a cause (because, due to, …),
- a cue of presence ("reports", "has", "positive for", …), unless part of the negation ("does not have"),
- a comma after which a new statement opens ("no fever, she …", "no fever, currently …").
A comma by itself ends nothing: "denies fever, cough or nausea" denies all three. "No fever, cough present"
and "fever absent" are read by the word right after the finding, which goes before any cue ahead of it.
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
# These hold a word of negation and negate no finding that follows.
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
    """Whether the finding `text[start:end]` is present or absent in its own clause of `text`."""
    if _ABSENT_AFTER.match(text, end):
        return "absent"
    if _PRESENT_AFTER.match(text, end):
        return "present"
    before = text[max(0, text.rfind("\n", 0, start) + 1) : start]
    before = _NOT_NEGATION.sub(lambda match: "_" * len(match[0]), before)
    *_, end_of_cue = 0, *(match.end() for match in _CUE.finditer(before))
    return "absent" if end_of_cue and not _END_OF_SCOPE.search(before, end_of_cue) else "present"
