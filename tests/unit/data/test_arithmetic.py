from __future__ import annotations

from fractions import Fraction

import pytest

from medray.data.arithmetic import equal, value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("( 84.0 / 2.0 )", 42),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("10 - 4 - 3", 3),
        ("16 / 4 / 2", 2),
        ("-3 + 5", 2),
        ("2 * -(1 + 2)", -6),
        ("--4", 4),
        (".5 + 1.", Fraction(3, 2)),
        ("0.1 + 0.2", Fraction(3, 10)),
    ],
)
def test_value(text: str, wanted: int | Fraction) -> None:
    assert value(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "()",
        "(1 + 2",
        "1 + 2)",
        "1 2",
        "1 +",
        "* 2",
        "5 / 0",
        "5 / (2 - 2)",
        "2 ** 3",
        "7 // 2",
        "7 % 2",
        "x + 1",
        "7x = 14",
        "1,000 + 1",
        "(14, 21)",
        "1e5",
        "__import__('os')",
        "len",
        "(8 / 4) and (6 / 4)",
        "١ + ٢",
        "1" * 31,
        "(" * 51 + "1" + ")" * 51,
        "+".join(["1"] * 200),
        "1 + " * 250 + "1",
    ],
)
def test_what_has_no_value(text: str) -> None:
    assert value(text) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("(34 + 40) and (62 - 17)", 45),
        ("((29/2) and (30/2))", 15),
        ("(3 - 3) and 5", 0),
        ("1 and 2 and 3", 3),
        ("1 and", None),
        ("1 andy 2", None),
    ],
)
def test_and_is_read_as_the_published_evaluation_did(text: str, wanted: int | None) -> None:
    assert value(text, legacy_and=True) == wanted


def test_equal_to_a_millionth() -> None:
    assert equal("1 / 3", "0.3333333")
    assert not equal("1 / 3", "0.33333")
    assert equal("(7 * 36)", "( 7.0 * 36.0 )")
    assert not equal("x", "x")
    # Exact however large: floats would call these the same.
    assert not equal("100000000000000000 + 1", "100000000000000000")
