"""The selection of examples: who is never one, how candidates are ordered, and what a killed selection keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from medray.config.icl import IclConfig
from medray.icl import line_file
from medray.icl.documents import Document
from medray.icl.index import index_folder
from medray.icl.index.vector_index import Hit, ranks_of
from medray.icl.selection.candidates import RANK_OFFSET, above, crossed, diverse, fused
from medray.icl.selection.exclusion import Exclusion
from medray.icl.selection.select import Searcher, select, selection_of

LONG = "one two three four five six seven eight nine ten eleven twelve"


def document(name: str, text: str, group: str = "") -> Document:
    return Document(id=name, group=group, text=text, answer=())


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (document("t", "something else"), "same id"),
        (document("a", "something else", group="p7"), "same group"),
        (document("a", LONG.upper().replace(" ", "  ")), "same text"),
        (document("a", LONG + " more"), "near-duplicate"),
        (document("a", "eleven twelve one two three four"), None),
    ],
)
def test_a_document_and_its_duplicates_are_never_its_example(example: Document, reason: str | None) -> None:
    exclusion = Exclusion([example], [document("t", LONG, group="p7")], 0.8)
    assert exclusion(0, 0) == (reason is not None)
    assert dict(exclusion.refused) == ({reason: 1} if reason else {})


def test_near_duplicates_may_be_allowed() -> None:
    assert not Exclusion([document("a", LONG + " more")], [document("t", LONG)], None)(0, 0)


def test_mmr_is_the_greedy_formula() -> None:
    vectors = np.array([[1, 0], [0.999, 0.0447], [0, 1]], dtype=np.float32)
    hits = [Hit(0, 0.9), Hit(1, 0.89), Hit(2, 0.5)]
    ranks = ranks_of(["a", "b", "c"])
    assert [hit.row for hit in diverse(hits, vectors, 3, 0.5, ranks)] == [0, 2, 1]
    assert [hit.row for hit in diverse(hits, vectors, 3, 1.0, ranks)] == [0, 1, 2]
    assert [hit.row for hit in diverse(hits, vectors, 2, 0.5, ranks)] == [0, 2]


def test_fusion_adds_reciprocal_ranks_and_ties_go_by_id() -> None:
    hits = [Hit(0, 0.9), Hit(1, 0.8), Hit(2, 0.7)]
    found = fused(hits, np.array([0.0, 1.0, 5.0]), ranks_of(["c", "b", "a"]))
    assert [hit.row for hit in found] == [
        2,
        0,
        1,
    ]  # ranks (3, 1), (1, 3), (2, 2): the middle one has the least
    assert found[0].score == pytest.approx(1 / (RANK_OFFSET + 1) + 1 / (RANK_OFFSET + 3))


def test_a_threshold_drops_candidates() -> None:
    assert above([Hit(0, 0.8), Hit(1, 0.79), Hit(2, 0.7899)], 0.79) == [Hit(0, 0.8), Hit(1, 0.79)]


def test_a_cross_encoder_orders_by_its_scores() -> None:
    class Length:
        def scores(self, query: str, passages: Sequence[str]) -> list[float]:
            return [len(passage) / 10 for passage in passages]

    hits = [Hit(0, 0.9), Hit(1, 0.8), Hit(2, 0.7)]
    found = crossed(hits, "q", ["ab", "abcd", "cd"], Length(), ranks_of(["b", "c", "a"]))
    assert found == [Hit(1, 0.4), Hit(2, 0.2), Hit(0, 0.2)]


@pytest.fixture
def searcher(tmp_path: Path) -> Searcher:
    train = [document(f"d{at}", f"patient {at} took drug number {at} twice a day") for at in range(20)]
    vectors = np.eye(20, 24, dtype=np.float32)
    icl = IclConfig(
        search="similarity_score_threshold", score_threshold=0.1, k=6, top_n=3, shots=2, rerank="none"
    )
    index = index_folder.build(tmp_path / "index", train, vectors, icl, seed=0, fingerprint="f")
    return Searcher(icl=icl, index=index, train=train)


def test_examples_are_stored_best_first_and_a_killed_selection_goes_on(
    searcher: Searcher, tmp_path: Path
) -> None:
    test = [document("t0", "a question"), document("d3", "another"), document("t2", "nothing like it")]
    vectors = np.zeros((3, 24), dtype=np.float32)
    vectors[0, [1, 2, 3, 4]] = [0.5, 0.7, 0.2, 0.4]
    vectors[1, [3, 5]] = [0.9, 0.3]
    vectors[2, 23] = 1
    path = tmp_path / "selected.jsonl"
    with line_file.opened(path, "f") as lines:
        select(searcher, test[:1], vectors[:1], lines)
    with path.open("a") as stream:
        stream.write('{"id": "d3", "exam')  # a killed process
    with line_file.opened(path, "f") as lines:
        assert list(lines.rows) == ["t0"]
        exclusion = select(searcher, test, vectors, lines)
    assert dict(exclusion.refused) == {"same id": 1}
    rows = line_file.read(path, "f")
    assert rows is not None
    found = selection_of(rows, test, 3, path)
    assert found.ids == {"t0": ("d2", "d1", "d4"), "d3": ("d5",), "t2": ()}
    assert found.counts(shots=2) == {
        "documents": 3,
        "fewer_than_top_n": 2,
        "fewer_than_shots": 2,
        "without_example": 1,
    }
    assert line_file.read(path, "other settings") is None
