"""An indexed split without usable rows is refused with a clear message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medray.config import Config
from medray.data.index.membership import ShardSpec, SourceParts, SplitIndex, join
from medray.data.index.row_index import RangeIndex, index_range
from medray.data.index.sources import FileSource
from medray.data.index.split_checks import check_split, one_label
from medray.errors import InputError

REJECTS = Path("tokens/rejects.jsonl")


def index(rows: int, rejects: dict[str, int], dropped: dict[str, int] | None = None) -> SplitIndex:
    shard = ShardSpec(index=0, source=0, position=0, first=0, raw_rows=rows, rows=rows)
    return SplitIndex(shards=(shard,), rejects=rejects, dropped=dropped or {})


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
        "more than the share of 0.01 that a run accepts"
    )
    assert error.fix == f"fix the rows of data.train (listed in {REJECTS}), or set data.max_rejects: 0.15"


@pytest.mark.parametrize(
    ("kinds", "end"), [(1, "not valid JSON: 5)"), (3, "not UTF-8: 3)"), (4, "not UTF-8: 3, and 1 more kind)")]
)
def test_reasons_that_are_not_listed_are_counted(kinds: int, end: str) -> None:
    assert end in refused(index(10, dict(list(REASONS.items())[:kinds]))).what


@pytest.mark.parametrize("bad", [2, 7, 33, 990])
@pytest.mark.parametrize("dropped", [0, 13])
def test_the_suggested_limit_accepts_the_rows(bad: int, dropped: int) -> None:
    found = index(1000 - bad, {"not UTF-8": bad}, {"a duplicate": dropped} if dropped else {})
    fix = refused(found, limit=0.001).fix
    assert fix is not None
    check_split(config(float(fix.rpartition(": ")[2])), "train", found, REJECTS)


@pytest.mark.parametrize(
    ("rejects", "dropped", "key", "says", "fix"),
    [
        ({}, {}, "data.train", "no usable row among 0", "a source that has rows"),
        (REASONS, {}, "data.train", "among 15 (not valid JSON: 5, ", "listed in tokens/rejects.jsonl"),
        ({}, {"in validation too": 4}, "data.leakage", "all of its 4 good rows were left out", "allow"),
        (
            REASONS,
            {"duplicate": 3, "not in the subsample": 1, "in a benchmark": 2},
            "data.decontaminate",
            "(duplicate: 3, not in the subsample: 1, in a benchmark: 2)",
            "other benchmark files",
        ),
    ],
)
def test_an_empty_split_says_which_stage_left_it_empty(
    rejects: dict[str, int], dropped: dict[str, int], key: str, says: str, fix: str
) -> None:
    error = refused(index(0, rejects, dropped), limit=1.0)
    assert error.key == key
    assert says in error.what
    assert fix in str(error.fix)


class TestLabels:
    """Documents with entities, read from files as in training, are checked."""

    @staticmethod
    def index(folder: Path, lines: str, **extraction: Any) -> tuple[Config, SplitIndex]:
        (folder / "a.conll").write_text(lines)
        source = FileSource(path=str(folder / "a.conll"), format="conll")
        made = Config.model_validate({"data": {"extraction": extraction}})
        part = index_range(source, 0, None, 8, None, made.data.extraction)
        part = RangeIndex.from_bytes(part.to_bytes())
        found = join([SourceParts("a", 0, [part])], [], made.data, seed=0)["train"]
        found.write(folder / "index.json")
        assert SplitIndex.read(folder / "index.json") == found
        return made, found

    TEXT = "Aspirin B-Drug\nhelps O\n\npain B-Problem\n\nfever B-Problem\nlast O\n\n"

    @pytest.mark.parametrize("types", [["Problm"], ["Drug", "Problm"], ["problem"]])
    def test_an_unused_type_is_refused_with_the_existing_types(
        self, types: list[str], tmp_path: Path
    ) -> None:
        with pytest.raises(InputError) as caught:
            check_split(*given(self.index(tmp_path, self.TEXT, types=types)))
        assert (caught.value.key, caught.value.value) == ("data.extraction.types", types)
        assert caught.value.fix == "set data.extraction.types to types of the training rows: Drug, Problem"
        assert types[-1] in caught.value.what

    def test_types_that_look_like_values_are_not_shown(self, tmp_path: Path) -> None:
        lines = "Aspirin B-2021-03-04\n\npain B-00123\n\n"
        with pytest.raises(InputError) as caught:
            check_split(*given(self.index(tmp_path, lines, types=["Drug"])))
        assert "2 types, whose names are not shown" in str(caught.value)
        assert not any(value in str(caught.value) for value in ("2021", "00123"))

    def test_types_without_any_entity_say_so(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no training row has a relation with a type"):
            check_split(*given(self.index(tmp_path, self.TEXT, answer="relations", types=["CID"])))

    def test_known_types_pass(self, tmp_path: Path) -> None:
        made, found = self.index(tmp_path, self.TEXT, types=["Drug"])
        check_split(made, "train", found, REJECTS)
        assert (found.empty_labels, found.one_label, found.types) == (2, False, ("Drug", "Problem"))

    def test_pairs_have_no_types_to_compare(self, tmp_path: Path) -> None:
        """With stages, the types are asked of the documents of another stage."""
        made, found = self.index(tmp_path, self.TEXT)
        pairs = made.override({"method.name": "dpo", "data.extraction.types": ["Chemical"]})
        check_split(pairs, "train", found, REJECTS)

    @pytest.mark.parametrize("extraction", [{}, {"answer": "relations"}])
    def test_documents_without_any_entity_are_refused(
        self, extraction: dict[str, Any], tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="all 2 training labels are empty"):
            check_split(*given(self.index(tmp_path, "A O\n\nb O\n\n", **extraction)))

    def test_one_label_for_all_rows_gives_a_warning(self, tmp_path: Path) -> None:
        made, found = self.index(tmp_path, "Aspirin B-Drug\n\nthe O\nASPIRIN B-Drug\n\n")
        check_split(made, "train", found, REJECTS)
        assert one_label(found) is None, "they differ by case"
        _, found = self.index(tmp_path, "Aspirin B-Drug\n\nthe O\nAspirin B-Drug\n\n")
        assert str(one_label(found)).startswith("all 2 training labels are the same text")
        _, found = self.index(tmp_path, "Aspirin B-Drug\n\n")
        assert one_label(found) is None, "one row has one label"


def given(made: tuple[Config, SplitIndex]) -> tuple[Config, str, SplitIndex, Path]:
    return made[0], "train", made[1], REJECTS
