"""Every corpus is described, and the config has the same names."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from medray.config.data import Dataset
from medray.data import corpora
from medray.errors import InputError


def test_the_config_names_the_same_corpora() -> None:
    assert tuple(name for name in get_args(Dataset) if name != "clinic") == corpora.NAMES


@pytest.mark.parametrize("name", corpora.NAMES)
def test_an_absent_corpus_is_an_error_that_names_files_and_folder(name: str, tmp_path: Path) -> None:
    for split in corpora.splits(name):
        with pytest.raises(InputError) as caught:
            corpora.find(name, str(tmp_path), split)
        message = str(caught.value)
        assert str(tmp_path) in message
        assert name in message
        assert "looked for" in message
        assert "ending in .json" in message
    assert corpora.splits(name, str(tmp_path)) == ()


@pytest.mark.parametrize("name", corpora.NAMES)
def test_presets(name: str) -> None:
    found = corpora.presets(name)
    assert found.licence
    assert found.hold_out == 0.1
    assert "train" in corpora.splits(name)
    assert set(corpora.counts(name)) <= set(corpora.splits(name))
    assert found.pair_join == ("eos" if "nli" in name else None)


def test_published_sizes() -> None:
    assert corpora.counts("cqa") == {"train": 9741, "test": 1221}
    assert corpora.counts("svamp") == {"train": 800, "test": 200}
    assert corpora.counts("esnli") == {"train": 549367, "validation": 9842, "test": 9824}
    assert corpora.counts("anli1") == {"train": 16946, "validation": 1000, "test": 1000}
    assert corpora.splits("biorelex") == ("train", "test")
    assert corpora.presets("bc5cdr_chemical").extraction.types == ("Chemical",)
    assert corpora.presets("bc5cdr").extraction.answer == "relations"
    assert len(corpora.RATIONALE_KEYS) == 13


def test_splits_of_a_folder_are_those_whose_files_are_there(corpora_folder: Path) -> None:
    assert corpora.splits("medqa_d2n", str(corpora_folder / "medistill_d2n")) == ("train", "validation")
    assert corpora.splits("ncbi_disease", str(corpora_folder / "ncbi_disease")) == ("train",)
