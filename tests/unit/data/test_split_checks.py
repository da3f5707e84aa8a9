"""What an indexed split is refused for, and what the message says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from medray.config import Config
from medray.data.membership import ShardSpec, SplitIndex
from medray.data.split_checks import check_split
from medray.errors import InputError

REJECTS = Path("tokens/rejects.jsonl")


def index(rows: int, rejects: dict[str, int], dropped: dict[str, int] | None = None) -> SplitIndex:
    shard = ShardSpec(index=0, source=0, position=0, first=0, raw_rows=rows, rows=rows)
    return SplitIndex((shard,), rejects=rejects, dropped=dropped or {})


def refused(found: SplitIndex, limit: float = 0.01) -> InputError:
    with pytest.raises(InputError) as caught:
        check_split(config(limit), "train", found, REJECTS)
    return caught.value


def config(limit: float) -> Config:
    return Config.model_validate({"data": {"max_rejects": limit}})


REASONS = {"not valid JSON": 5, "no column 'label'": 4, "not UTF-8": 3, "a JSON list": 2, "a NUL byte": 1}


def test_too_many_bad_rows_name_the_key_and_how_many_reasons_there_are() -> None:
    error = refused(index(85, REASONS))
    assert (error.key, error.value) == ("data.max_rejects", 0.01)
    assert error.what == (
        "15 of 100 train rows are bad (not valid JSON: 5, no column 'label': 4, not UTF-8: 3, and 2 more kinds), "
        "more than the share of 0.01 that a run tolerates"
    )
    assert error.mend == f"mend the rows of data.train (named in {REJECTS}), or data.max_rejects: 0.15"


@pytest.mark.parametrize(
    ("kinds", "end"), [(1, "not valid JSON: 5)"), (3, "not UTF-8: 3)"), (4, "not UTF-8: 3, and 1 more kind)")]
)
def test_reasons_that_are_not_listed_are_counted(kinds: int, end: str) -> None:
    assert end in refused(index(10, dict(list(REASONS.items())[:kinds]))).what


@pytest.mark.parametrize("bad", [2, 7, 33, 990])
@pytest.mark.parametrize("dropped", [0, 13])
def test_what_the_message_says_to_set_lets_the_rows_pass(bad: int, dropped: int) -> None:
    found = index(1000 - bad, {"not UTF-8": bad}, {"a duplicate": dropped} if dropped else {})
    mend = refused(found, limit=0.001).mend
    assert mend is not None
    check_split(config(float(mend.rpartition(": ")[2])), "train", found, REJECTS)


@pytest.mark.parametrize(
    ("rejects", "dropped", "says", "mend"),
    [
        ({}, {}, "among 0", "a source that has rows"),
        ({}, {"leaked": 4}, "among 4 (leaked: 4)", "data.leakage"),
        (REASONS, {"leaked": 4}, "among 19 (not valid JSON: 5, ", "named in tokens/rejects.jsonl"),
    ],
)
def test_an_empty_split_says_what_left_it_empty(
    rejects: dict[str, int], dropped: dict[str, int], says: str, mend: str
) -> None:
    error = refused(index(0, rejects, dropped), limit=1.0)
    assert error.key == "data.train"
    assert says in error.what
    assert mend in str(error.mend)
