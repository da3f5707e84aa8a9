"""The split of MultiClinSum has the published counts and order, and no report is in two splits."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from medray.data import corpora
from medray.data.corpora import CorpusOptions
from medray.data.corpora.multiclinsum import LANGUAGES
from medray.errors import InputError


def rows(root: Path, split: str) -> list[dict[str, Any]]:
    found = [each.row for each in corpora.rows("multiclinsum", str(root), split, CorpusOptions())]
    assert all(isinstance(row, dict) for row in found)
    return found  # type: ignore[return-value]


def reports(folder: Path, counts: dict[str, int], **extra: Any) -> Path:
    for lang, count in counts.items():
        found = [
            {
                "input": f"{lang} {n} " + "x" * 3000,
                "output": f"out {n} " + "y" * 600,
                "rationale": "z" * 700,
                "rationale_prompt": "p",
            }
            | {key: value(n, lang) for key, value in extra.items()}
            for n in range(count)
        ]
        (folder / f"multiclinsum_gs_{lang}.json").write_text(json.dumps(found))
    return folder


def test_counts_and_order_are_the_published_ones(tmp_path: Path) -> None:
    reports(tmp_path, dict.fromkeys(LANGUAGES, 592))
    made = {split: rows(tmp_path, split) for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in made.items()} == corpora.counts("multiclinsum")
    assert [len([row for row in found if row["lang"] == "fr"]) for found in made.values()] == [473, 5, 114]
    order = list(range(592))
    random.Random(42).shuffle(order)
    spanish = [row["input"].split()[1] for row in made["train"] if row["lang"] == "es"]
    assert spanish == [str(n) for n in order[:473]]
    assert [row["lang"] for row in made["validation"]] == [lang for lang in LANGUAGES for _ in range(5)]
    groups = [{row["group"] for row in found} for found in made.values()]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 592
    assert len({row["id"] for found in made.values() for row in found}) == 4 * 592


def test_long_texts_are_cut_and_some_rows_left_out(tmp_path: Path) -> None:
    reports(tmp_path, dict.fromkeys(LANGUAGES, 200))
    for split in ("train", "validation"):
        row = rows(tmp_path, split)[0]
        assert set(row) == {"id", "input", "label", "rationale", "lang", "group"}
        assert (len(row["input"]), len(row["label"]), len(row["rationale"])) == (2560, 512, 700)
    test = rows(tmp_path, "test")[0]
    assert set(test) == {"id", "input", "label", "lang", "group"}
    assert len(test["input"]) > 3000
    assert len(test["label"]) > 600


def test_unequal_languages_are_split_by_the_ids_of_reports(tmp_path: Path) -> None:
    reports(
        tmp_path,
        {"en": 100, "es": 90, "fr": 100, "pt": 80},
        id=lambda n, lang: f"case_{lang}_{(n * 7) % 100}",
    )
    of: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for row in rows(tmp_path, split):
            of.setdefault(row["group"], set()).add(split)
    assert len(of) == 100
    assert all(len(found) == 1 for found in of.values())


def test_texts_in_folders(tmp_path: Path) -> None:
    for lang in LANGUAGES:
        for kind in ("fulltext", "summaries"):
            (tmp_path / f"multiclinsum_gs_train_{lang}" / kind).mkdir(parents=True)
        for n in range(1, 21):
            stem = tmp_path / f"multiclinsum_gs_train_{lang}"
            (stem / f"fulltext/multiclinsum_gs_{lang}_{n}.txt").write_text(f"report {n}")
            (stem / f"summaries/multiclinsum_gs_{lang}_{n}_sum.txt").write_text(f"summary {n}")
    made = rows(tmp_path, "train")
    assert len(made) == 4 * 16
    assert all(row["input"].split()[1] == row["label"].split()[1] == row["group"] for row in made)
    assert len(corpora.find("multiclinsum", str(tmp_path), "test")) == 2 * 4 * 20


def test_a_language_that_is_missing_is_named(tmp_path: Path) -> None:
    reports(tmp_path, {"en": 10, "es": 10, "fr": 10})
    with pytest.raises(InputError, match=r"multiclinsum \(pt\).*multiclinsum_gs_pt"):
        rows(tmp_path, "train")


def test_two_reports_of_one_id(tmp_path: Path) -> None:
    reports(tmp_path, dict.fromkeys(LANGUAGES, 10), id=lambda n, lang: n // 2)
    with pytest.raises(InputError, match="5 reports of the language en"):
        rows(tmp_path, "train")
