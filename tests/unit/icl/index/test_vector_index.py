"""The search for similar vectors against numpy, its ties, and the files of an index."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from medray.config.icl import IclConfig
from medray.errors import InputError
from medray.icl.documents import Document
from medray.icl.index import index_folder
from medray.icl.index.vector_index import Hit, Kind, build, kind_of, ranks_of


def unit(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    made: np.ndarray = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return made


IDS = [f"d{at:04}" for at in range(300)]


def test_an_exact_search_is_numpys_order() -> None:
    vectors, queries = unit(300), unit(5, seed=1)
    found = build(vectors, IDS, "flat", seed=0).search(queries, 7)
    for query, hits in zip(queries, found, strict=True):
        expected = np.argsort(-(vectors @ query), kind="stable")[:7]
        assert [hit.row for hit in hits] == expected.tolist()
        assert hits[0].score == pytest.approx(float((vectors @ query).max()), abs=1e-6)


def test_equal_scores_are_ordered_by_id_also_at_the_end() -> None:
    vectors = np.repeat(unit(3), 20, axis=0)
    for ids in ([f"d{59 - at:02}" for at in range(60)], [f"d{at:02}" for at in range(60)]):
        found = build(vectors, ids, "flat", seed=0).search(unit(3)[1:2], 4)
        assert [ids[hit.row] for hit in found[0]] == ["d20", "d21", "d22", "d23"]


def test_refused_rows_are_replaced_and_allowed_rows_are_the_only_ones() -> None:
    vectors = unit(300)
    index = build(vectors, IDS, "flat", seed=0)
    first = [hit.row for hit in index.search(vectors[:1], 40)[0]]
    found = index.search(vectors[:1], 10, refused=lambda query, row: row in first[:25])
    assert [hit.row for hit in found[0]] == first[25:35]
    some = index.search(vectors[:1], 10, allowed=np.array([5, 9, 200]))
    assert {hit.row for hit in some[0]} == {5, 9, 200}
    assert index.search(vectors[:1], 5, refused=lambda query, row: True) == [[]]


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_index_finds_most_and_is_found_again(kind: Kind, tmp_path: Path) -> None:
    vectors = unit(300)
    documents = [Document(id=name, group="", text=f"text {name}", answer=()) for name in IDS]
    icl = IclConfig(index=kind)
    print_ = index_folder.fingerprint(icl, documents, "encoder", 0)
    made = index_folder.build(tmp_path / "index", documents, vectors, icl, seed=0, fingerprint=print_)
    again = index_folder.open_index(tmp_path / "index")
    assert index_folder.stored_fingerprint(tmp_path / "index") == print_
    assert made.vectors is not None
    assert again.vectors is not None
    assert 0.5 < made.recall <= 1
    assert again.recall == made.recall
    assert isinstance(again.vectors.vectors, np.memmap)
    queries = unit(4, seed=2)
    assert made.vectors.search(queries, 5) == again.vectors.search(queries, 5)


def test_auto_is_exact_up_to_a_million() -> None:
    assert [kind_of("auto", 1_000_000), kind_of("auto", 1_000_001), kind_of("hnsw", 3)] == [
        "flat",
        "ivf",
        "hnsw",
    ]


def test_a_changed_file_or_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    documents = [Document(id=name, group="", text=f"text {name}", answer=()) for name in IDS]
    icl = IclConfig()
    folder = tmp_path / "index"

    def make() -> None:
        index_folder.build(folder, documents, unit(300), icl, seed=0, fingerprint="f")

    make()
    with (folder / "vectors.npy").open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\0\0\0\0")
    with pytest.raises(InputError, match="changed"):
        index_folder.open_index(folder)
    make()  # an index may be replaced
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="other files than an index"):
        make()


def test_words_are_found_by_bm25(tmp_path: Path) -> None:
    texts = [
        "aspirin for a headache",
        "the heparin dose",
        "a heparin dose and a heparin pump",
        "nothing of it",
    ]
    documents = [Document(id=f"d{at}", group="", text=text, answer=()) for at, text in enumerate(texts)]
    icl = IclConfig(search="bm25")
    index = index_folder.build(tmp_path / "index", documents, None, icl, seed=0, fingerprint="f")
    found = index.words.search("Heparin pump", 3, lambda row: False)
    assert [hit.row for hit in found] == [2, 1], "documents without a shared word are no hits"
    assert [hit.row for hit in index.words.search("heparin", 1, lambda row: row == 2)] == [1]
    assert index.words.search("zebra", 3, lambda row: False) == []


def test_scores_of_some_documents_are_those_of_all(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = [f"word{at}" for at in range(30)]
    texts = [" ".join(draw.choices(words, k=draw.randrange(1, 40))) for _ in range(200)]
    documents = [Document(id=f"d{at:03}", group="", text=text, answer=()) for at, text in enumerate(texts)]
    index = index_folder.build(
        tmp_path / "index", documents, None, IclConfig(search="bm25"), seed=0, fingerprint="f"
    )
    for text in (*texts[:20], "word1 word1 word2 unknown", "unknown"):
        rows = draw.sample(range(200), 30)
        expected = index.words.scores(text)[rows]
        np.testing.assert_allclose(index.words.scores_of(text, rows), expected, rtol=1e-5)


def test_the_fingerprint_knows_documents_encoder_and_kind() -> None:
    one = [Document(id="a", group="", text="x", answer=())]
    other = [Document(id="a", group="", text="y", answer=())]
    prints = {
        index_folder.fingerprint(IclConfig(), one, "e", 0),
        index_folder.fingerprint(IclConfig(), other, "e", 0),
        index_folder.fingerprint(IclConfig(), one, "f", 0),
        index_folder.fingerprint(IclConfig(index="hnsw"), one, "e", 0),
        index_folder.fingerprint(IclConfig(), one, None, 0),
    }
    assert len(prints) == 5
    assert ranks_of(["b", "a", "c"]).tolist() == [1, 0, 2]
    assert Hit(1, 0.5).row == 1
