"""Checks of a reply: whether it can become a message of a chat. A reason is a short phrase without text of the reply."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from medray.backends.protocol import Reply
from medray.errors import InputError
from medray.synth.chat.situations import Situation

ROLE_TAG = re.compile(
    r"\(\s*\**\s*(?:user|chatbot|assistant)\s*\**\s*\)|^[ \t>*_#]*(?:user|chatbot|assistant)\s*\**\s*:",
    re.IGNORECASE | re.MULTILINE,
)
_REFUSAL = re.compile(
    r"\A\W*(?:i['’]?m (?:really )?sorry|sorry|i apologi[sz]e|unfortunately)?,?\s*(?:but )?"
    r"(?:i can(?:no|['’])t|i am unable to|i['’]m unable to|i won['’]t|as an ai(?: language model)?,? i (?:can(?:no|['’])t|am))"
    r"(?:[^.\n]{0,80})(?:help|assist|provide|answer|comply|give|continue|fulfil)",
    re.IGNORECASE,
)
FEWEST_LETTERS = 60  # a language is not recognized reliably in a shorter text
_ABBREVIATION = re.compile(
    r"\b(?:dr|mr|mrs|ms|prof|e\.g|i\.e|vs|approx|cf|resp|p\.o|i\.v|i\.m)\.\s*$",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[.!?…]+[\"'”’»)\]*_]*(?=\s|$)|[。！？।؟۔]+")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*(?:[-*+•]|\(?\d{1,2}[.)])\s*$")


def problem(reply: Reply, situation: Situation, step: str) -> str | None:
    """Return why a reply is not accepted, or None."""
    found = plain_problem(reply)
    if found is not None:
        return found
    text = reply.text
    if ROLE_TAG.search(text):
        return "role tag"
    if step.endswith("c") and situation.language and _other_language(text, situation.language):
        return "wrong language"
    wanted = situation.n_chatbot if step.endswith("c") else situation.n_user
    if situation.mode == "normal" and wanted is not None and sentences(text) != wanted:
        return "wrong number of sentences"
    return None


def plain_problem(reply: Reply) -> str | None:
    """Return why a reply to any request is not accepted, or None."""
    if reply.finish_reason != "stop":
        return f"finish_reason {reply.finish_reason[:20]}"
    if reply.refusal or _REFUSAL.match(reply.text):
        return "refusal"
    if not reply.text.strip():
        return "empty"
    try:
        reply.text.encode()
    except UnicodeEncodeError:
        return "half of a Unicode pair"
    return None


def sentences(text: str) -> int:
    """Return the number of sentences: ends of sentences, and lines that have none."""
    count = 0
    for line in text.splitlines():
        begin = last = 0
        for end in _ENDS.finditer(line):
            before = line[begin : end.end()]
            if _ABBREVIATION.search(before) or _LIST_NUMBER.search(before):
                continue
            count, begin, last = count + 1, end.end(), end.end()
        count += bool(re.search(r"\w", line[last:]))
    return count


def language_of(text: str) -> str:
    """Return the ISO 639-1 code of the probable language of a text."""
    return str(_identifier()(text)[0])


def check_installed() -> None:
    """Raise InputError if the language of replies cannot be recognized."""
    _identifier()


def _other_language(text: str, wanted: str) -> bool:
    return sum(map(str.isalpha, text)) >= FEWEST_LETTERS and language_of(text) != wanted


@cache
def _identifier() -> Any:
    try:
        import py3langid
    except ImportError:
        raise InputError(
            "the language of texts is recognized by py3langid, which is not installed",
            key="synth",
            fix="install it: pip install 'medray[synth]'",
        ) from None
    return py3langid.classify
