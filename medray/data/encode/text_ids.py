"""Tokenization of text in pieces, such that the joined ids of the pieces equal the ids of the whole text.

A conversation is tokenized in pieces: text of the template, text of a record, text with loss. Two rules make that
exact. Many tokenizers put a blank before the first word of a text, but a piece that follows another must not get one,
so a second tokenizer that adds none reads such pieces. And strings that look like control tokens count as control
tokens in a template, but never in a record: a patient's text cannot open a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

import numpy as np

from medray.errors import InputError

# start: the piece begins a text. inner: it follows another piece. target: it begins a text that a decoder writes, for
# which some tokenizers have a separate vocabulary (Marian).
Kind = Literal["start", "inner", "target"]
_AT_ONCE = 64  # texts per call: the tokenizer needs a hundred times the memory of their ids
_CACHED_WORDS = 100_000  # the tokenizer's default of 10,000 is too small for medical text


class TextIds:
    """Tokenizes pieces of text with one tokenizer.

    It is not thread-safe, and nothing else may use the tokenizer meanwhile.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backends = _backends(tokenizer)
        for backend in (self._backends or {}).values():
            _remember_words(backend)
        self.end = int(tokenizer.eos_token_id)
        self.control = _control_tokens(tokenizer)
        self._pattern = _pattern(tokenizer, self.control)
        added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        # Some tokenizers have added tokens for runs of blanks and line ends; such tokens do not end a turn.
        self._ends = _pattern(
            tokenizer, self.control | {text: n for text, n in added.items() if text.strip()}
        )
        self.begin = _begin(tokenizer)
        self.after_control = self._kind_after_control()

    def around(self, *, target: bool) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer puts before and after a text of an encoder-decoder.

        These are `<s>`, a language code and the end token, which is appended if the tokenizer adds none. target:
        whether the decoder writes the text, as in `tokenizer(text_target=…)`. Raises InputError for a tokenizer of
        several languages that has no target language.
        """
        tokenizer = self._tokenizer
        if target and hasattr(tokenizer, "_switch_to_target_mode"):
            outer = [number for part in self.around(target=False) for number in part]
            languages = [number for number in outer if number not in (tokenizer.bos_token_id, self.end)]
            if languages and getattr(tokenizer, "tgt_lang", None) is None:
                raise InputError(
                    "the model's tokenizer supports several languages, but no target language (tgt_lang) is set",
                    key="model.name",
                    value=str(tokenizer.name_or_path),
                    fix="save the tokenizer with its languages into a copy of the model's folder: "
                    'AutoTokenizer.from_pretrained(FOLDER, src_lang="…", tgt_lang="…").save_pretrained(FOLDER)',
                )
        text = "a"
        given = {"text_target" if target else "text": text}
        ids = list(tokenizer(**given)["input_ids"])
        bare = list(tokenizer(**given, add_special_tokens=False)["input_ids"])
        size = len(bare)
        start = next((at for at in range(len(ids) - size + 1) if ids[at : at + size] == bare), 0)
        before, after = ids[:start], ids[start + size :]
        return before, after if self.end in after else [*after, self.end]

    def batch(self, texts: Sequence[str], kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize texts of records, in which strings that look like control tokens stay plain text.

        Returns (ids int32 [sum of lengths], lengths int64 [texts]).
        """
        found = [self._chunk(texts[at : at + _AT_ONCE], kind) for at in range(0, len(texts), _AT_ONCE)]
        if not found:
            return np.empty(0, np.int32), np.empty(0, np.int64)
        return np.concatenate([ids for ids, _ in found]), np.concatenate([lengths for _, lengths in found])

    def plain(self, text: str, kind: Kind) -> list[int]:
        """Return the ids of one text of a record, tokenized as in `batch`."""
        return self.batch([text], kind)[0].tolist() if text else []

    def split(self, text: str) -> list[str | int]:
        """Split a template's text into the ids of its control tokens and the plain text between them."""
        parts: list[str | int] = []
        at = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            parts += [text[at : match.start()], self.control[match.group(match.lastgroup or 0)]]
            at = match.end()
        return [part for part in [*parts, text[at:]] if part != ""]

    def first_added(self, text: str) -> int | None:
        """Return the index after the first control or added token in a template's text; None if it contains none."""
        match = self._ends.search(text) if self._ends else None
        return match.end() if match else None

    def _chunk(self, texts: Sequence[str], kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        if self._backends is None:
            given: dict[str, Any] = {"text_target" if kind == "target" else "text": list(texts)}
            made = self._tokenizer(**given, add_special_tokens=False, split_special_tokens=True)
            rows: list[Sequence[int]] = made["input_ids"]
        else:
            with _neutral(self._backends[kind]) as backend:
                rows = [row.ids for row in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths

    def _kind_after_control(self) -> Kind:
        """Return how a text after a control token is tokenized: `start` if the tokenizer puts its blank before it."""
        loose = self._tokenizer.added_tokens_decoder
        for token, number in self.control.items():
            flags = loose.get(number)
            if flags is not None and not (flags.lstrip or flags.rstrip or flags.single_word):
                ids = self._tokenizer(f"{token}a", add_special_tokens=False)["input_ids"]
                return "start" if ids == [number, *self.plain("a", "start")] else "inner"
        return "inner"


def _backends(tokenizer: Any) -> dict[Kind, Any] | None:
    """Return the fast tokenizer for each kind of piece; None for a tokenizer written in Python."""
    from tokenizers import Tokenizer

    start = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(start, Tokenizer):
        return None
    made = json.loads(start.to_str())
    changes = [_drop_blank(made, part) for part in ("pre_tokenizer", "normalizer")]
    if not any(changes):
        return {"start": start, "inner": start, "target": start}
    inner = Tokenizer.from_str(json.dumps(made))
    # If a tokenizer adds its blank in a way that is not handled here, use it unchanged.
    with _neutral(start), _neutral(inner):
        head, tail = "ab", " cd ef"
        ids = [
            backend.encode(text, add_special_tokens=False).ids
            for backend, text in ((start, head), (inner, tail))
        ]
        whole = start.encode(head + tail, add_special_tokens=False).ids
    return {"start": start, "inner": inner if ids[0] + ids[1] == whole else start, "target": start}


def _remember_words(backend: Any) -> None:
    """Let a tokenizer cache the ids of more words. This saves a tenth of the time and changes no id."""
    resize = getattr(backend.model, "_resize_cache", None)
    if resize is not None:
        resize(_CACHED_WORDS)


def _drop_blank(made: dict[str, Any], part: str) -> bool:
    """Remove the step that adds a blank at the start of a text from a tokenizer's JSON. Return whether it had one."""
    step = made.get(part)
    if not step:
        return False
    if step["type"] == "Sequence":
        name = "pretokenizers" if part == "pre_tokenizer" else "normalizers"
        inside = [{part: child} for child in step[name]]
        changes = [_drop_blank(child, part) for child in inside]
        step[name] = [child[part] for child in inside if child[part]]
        return any(changes)
    if step["type"] == "Prepend":
        made[part] = None
        return True
    key, off = {"Metaspace": ("prepend_scheme", "never"), "ByteLevel": ("add_prefix_space", False)}.get(
        step["type"], ("", None)
    )
    if not key or step.get(key, off) == off:
        return False
    step[key] = off
    return True


@contextmanager
def _neutral(backend: Any) -> Iterator[Any]:
    """Read control tokens as text in the block, and switch off truncation and padding for good."""
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    try:
        yield backend
    finally:
        backend.encode_special_tokens = before


def _control_tokens(tokenizer: Any) -> dict[str, int]:
    found = {
        token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    named: Iterable[str] = tokenizer.all_special_tokens
    return found | {token: int(tokenizer.convert_tokens_to_ids(token)) for token in named}


def _pattern(tokenizer: Any, control: dict[str, int]) -> re.Pattern[str] | None:
    """Return a pattern that finds control tokens as the tokenizer does: longest first, with the blanks that a token strips."""
    loose = {token.content: token for token in tokenizer.added_tokens_decoder.values()}

    def one(number: int, token: str) -> str:
        left = r"\s*" if token in loose and loose[token].lstrip else ""
        right = r"\s*" if token in loose and loose[token].rstrip else ""
        return f"{left}(?P<c{number}>{re.escape(token)}){right}"

    ordered = sorted(filter(None, control), key=len, reverse=True)
    return re.compile("|".join(one(*pair) for pair in enumerate(ordered))) if ordered else None


def _begin(tokenizer: Any) -> int | None:
    """Return the begin token if the tokenizer itself puts one before a text."""
    ids = tokenizer("a")["input_ids"]
    return int(ids[0]) if ids and ids[0] == tokenizer.bos_token_id else None
