"""Evaluation of arithmetic expressions with numbers, + - * /, parentheses and unary minus. No code is ever executed.

It decides whether a teacher's equation and the gold equation have the same value. Values are exact fractions, so
rounding never decides whether two expressions are equal.
"""

from __future__ import annotations

import re
from fractions import Fraction

TOLERANCE = Fraction(1, 1_000_000)
_LONGEST, _MOST_TOKENS, _LONGEST_NUMBER, _DEEPEST = 1000, 200, 30, 50
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|([-+*/()]|and\b))")


def value(text: str, *, legacy_and: bool = False) -> Fraction | None:
    """Return the value of an expression; None if it is not an expression, is too large, or divides by zero.

    legacy_and: also accept `(a) and (b)` with Python's meaning: a if a is zero, else b. The published evaluation of
    teachers' equations did so.
    """
    tokens = _tokens(text)
    return None if "and" in tokens and not legacy_and else _Expression(tokens).whole()


def equal(first: str, second: str, *, legacy_and: bool = False) -> bool:
    """Return whether both texts are expressions whose values differ by at most 1e-6. legacy_and: as in `value`."""
    values = value(first, legacy_and=legacy_and), value(second, legacy_and=legacy_and)
    return values[0] is not None and values[1] is not None and abs(values[0] - values[1]) <= TOLERANCE


class _Expression:
    """A recursive descent parser over tokens. Each rule returns None if the tokens do not fit."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = self._depth = 0

    def whole(self) -> Fraction | None:
        found = self._conjunction() if self._tokens else None
        return found if self._at == len(self._tokens) else None

    def _next(self, *allowed: str) -> str | None:
        if self._at < len(self._tokens) and self._tokens[self._at] in allowed:
            self._at += 1
            return self._tokens[self._at - 1]
        return None

    def _conjunction(self) -> Fraction | None:
        found = self._sum()
        while found is not None and self._next("and"):
            other = self._sum()
            if other is None:
                return None
            found = other if found else found
        return found

    def _sum(self) -> Fraction | None:
        total = self._product()
        while total is not None and (sign := self._next("+", "-")):
            other = self._product()
            if other is None:
                return None
            total = total + other if sign == "+" else total - other
        return total

    def _product(self) -> Fraction | None:
        total = self._signed()
        while total is not None and (sign := self._next("*", "/")):
            other = self._signed()
            if other is None or (sign == "/" and other == 0):
                return None
            total = total * other if sign == "*" else total / other
        return total

    def _signed(self) -> Fraction | None:
        negative = False
        while sign := self._next("+", "-"):
            negative ^= sign == "-"
        found = self._operand()
        return -found if negative and found is not None else found

    def _operand(self) -> Fraction | None:
        if self._next("("):
            self._depth += 1
            inner = self._conjunction() if self._depth <= _DEEPEST else None
            self._depth -= 1
            return inner if self._next(")") else None
        if self._at < len(self._tokens) and self._tokens[self._at][0] in ".0123456789":
            self._at += 1
            return Fraction(self._tokens[self._at - 1])
        return None


def _tokens(text: str) -> list[str]:
    """Return the tokens; [] if the text contains anything else or exceeds the limits."""
    text = text.strip()
    if not text.isascii() or len(text) > _LONGEST:
        return []
    tokens, at = list[str](), 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or len(tokens) == _MOST_TOKENS or len(found[1] or "") > _LONGEST_NUMBER:
            return []
        tokens.append(found[1] or found[2])
        at = found.end()
    return tokens
