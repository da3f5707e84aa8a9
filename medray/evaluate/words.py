"""Splitting text of any script into words, for metrics: the words that ROUGE counts, and word boundaries."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby
from typing import Any

# Scripts without spaces between words; each character counts as a word. They are Han with its extensions and iteration
# marks, Hiragana, Katakana, Bopomofo, Thai, Lao, Khmer, Burmese and Tibetan. Korean has spaces.
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
    "\u0e01-\u0e4e\u0e81-\u0ecd\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3]"
)
_HANGUL = re.compile("[\uac00-\ud7a3]")
# Vowel marks and the stretching tatweel of Arabic: the same word may be written with or without them.
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]")
_JOINERS = "\u200c\u200d"  # inside words of Persian and of Indic scripts


def normalised(text: str) -> str:
    """Return `text` with one form for equal characters. ASCII text does not change.

    Accents are composed, full-width letters and punctuation become ASCII (NFKC), and the ideographic full stop and comma
    become "." and ",".
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text).translate({0x3002: ".", 0x3001: ","})


def comparable(text: str) -> str:
    """Return `text` in the form in which entities are searched: normalised, and Arabic without vowel marks and tatweel."""
    return text if text.isascii() else _ARABIC_MARKS.sub("", normalised(text))


def lower(text: str) -> str:
    """Return `text` in lower case with the same length: "İ", which Python turns into two characters, becomes "i"."""
    return text.lower() if text.isascii() else "".join(character.lower()[:1] for character in text)


def is_whole(text: str, begin: int, end: int) -> bool:
    """Return whether `text[begin:end]` begins and ends at word boundaries, so that "rash" is not found in "rashes".

    In a script without spaces, every character is a boundary. In Korean text, a word, even one in Latin letters, may be
    followed by particles.
    """
    before, after = text[begin - 1 : begin], text[end : end + 1]
    first, last = text[begin], text[end - 1]
    if before and _in_word(before) and not (_UNSPACED.match(before) or _UNSPACED.match(first)):
        return False
    if not after or not _in_word(after):
        return True
    if unicodedata.category(after).startswith("M"):
        return False
    if _UNSPACED.match(after) or _UNSPACED.match(last):
        return True
    return _HANGUL.match(after) is not None


def words(text: str, stemmer: Any = None) -> list[str]:
    """Return the lower-case words of `text`; in a script without spaces, each character with its marks is a word.

    stemmer: a stemmer of rouge_score, which is applied to ASCII words of more than three letters. For ASCII text, the
    result equals that of rouge_score's tokenizer.
    """
    found: list[str] = []
    for inside, characters in groupby(normalised(text.lower()).lower(), _in_word):
        if inside:
            found += _split("".join(characters))
    return [
        stemmer.stem(word) if stemmer is not None and word.isascii() and len(word) > 3 else word
        for word in found
    ]


def is_mostly_unspaced(texts: Iterable[str]) -> bool:
    """Return whether most letters of the texts are of a script without spaces between words."""
    letters = unspaced = 0
    for text in texts:
        if text.isascii():
            letters += sum(map(str.isalpha, text))
        else:
            unspaced += len(_UNSPACED.findall(text))
            letters += sum(map(str.isalpha, text))
    return unspaced > letters / 2


def _split(run: str) -> list[str]:
    """Split consecutive word characters into words; in a script without spaces, into characters."""
    found: list[str] = []
    open_word = False  # whether the next character may continue the last word
    for character in run:
        unspaced = _UNSPACED.match(character) is not None
        mark = unicodedata.category(character).startswith("M")
        if found and (mark or character in _JOINERS or (open_word and not unspaced)):
            found[-1] += character
        else:
            found.append(character)
            open_word = not unspaced
    return found


def _in_word(character: str) -> bool:
    if character.isascii():
        return character.isalnum()
    return character.isalnum() or unicodedata.category(character).startswith("M") or character in _JOINERS
