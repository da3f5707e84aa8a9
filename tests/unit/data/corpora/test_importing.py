"""An import writes rows that become records, rejects, and an account that can be checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from medray.data import corpora
from medray.data.corpora import CorpusOptions, importing, instruct
from medray.data.records import BadRowError
from medray.data.schemas import parse
from medray.errors import InputError


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def generic(folder: Path, *found: dict[str, Any]) -> str:
    (folder / "generic_train.json").write_text("\n".join(map(json.dumps, found)))
    return str(folder)


GOOD = {"input": "a\ud800", "label": "b", "rationale": "c"}


def test_rows_rejects_and_account(tmp_path: Path) -> None:
    source, target = generic(tmp_path, GOOD, {"input": "a"}, {**GOOD, "rationale": " "}), tmp_path / "new/out"
    account = importing.import_corpus("generic", source, target, ("train",), CorpusOptions())
    assert [row["id"] for row in lines(target / "train.jsonl")] == ["generic-train-0", "generic-train-2"]
    assert lines(target / "train.jsonl")[0]["input"] == "a\ud800"
    (reject,) = lines(target / "rejects.jsonl")
    assert (reject["file"], reject["line"]) == ("generic_train.json", 2)
    assert reject["reason"] == "no column 'label' or 'output'"
    assert account == json.loads((target / "import.json").read_text())
    train = account["splits"]["train"]
    assert (train["rows"], train["rejected"], train["without_rationale"]) == (2, 1, 1)
    assert account["licence"] == {"generic": corpora.presets("generic").licence}
    (file,) = account["files"]
    assert file["sha256"] == hashlib.sha256((tmp_path / "generic_train.json").read_bytes()).hexdigest()
    for written in account["written"]:
        assert written["sha256"] == hashlib.sha256((target / written["path"]).read_bytes()).hexdigest()
    assert {written["path"] for written in account["written"]} == {"train.jsonl", "rejects.jsonl"}


def test_nothing_is_overwritten_without_being_asked(tmp_path: Path) -> None:
    source, target = generic(tmp_path, GOOD), tmp_path / "out"
    target.mkdir()
    (target / "train.jsonl").write_text("mine")
    (target / "other").write_text("mine too")
    with pytest.raises(InputError, match=r"train\.jsonl"):
        importing.import_corpus("generic", source, target, ("train",), CorpusOptions())
    assert (target / "train.jsonl").read_text() == "mine"
    assert sorted(path.name for path in target.iterdir()) == ["other", "train.jsonl"]
    importing.import_corpus("generic", source, target, ("train",), CorpusOptions(), force=True)
    assert len(lines(target / "train.jsonl")) == 1
    assert (target / "other").read_text() == "mine too"
    with pytest.raises(InputError, match="--force"):
        importing.import_corpus("generic", source, target, ("train",), CorpusOptions())


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    source = generic(tmp_path, {"input": "a"})
    with pytest.raises(InputError, match=r"no usable row \(bad rows: 1"):
        importing.import_corpus("generic", source, tmp_path / "out", ("train",), CorpusOptions())
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_gives_a_warning(tmp_path: Path) -> None:
    (tmp_path / "medsum_train.json").write_text(json.dumps([{"input": "Negativet here", "output": "x"}]))
    account = importing.import_corpus("medsum", str(tmp_path), tmp_path / "out", ("train",), CorpusOptions())
    assert "1 inputs" in account["warnings"][0]


def test_versions_are_the_published_columns_and_slices(tmp_path: Path) -> None:
    wikidoc = [{"input": f"w{n}?", "output": f"w{n}.", "instruction": "x"} for n in range(5000)]
    medquad = [{"question": f"m{n}?", "answer": f"m{n}.", "source": "NIH"} for n in range(4000)]
    for name, found in (("wikidoc", wikidoc), ("medquad", medquad)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, found)))
    target = tmp_path / "out"
    versions = ("gemma/combined", "llama/combined_short", "mistral/medquad")
    importing.import_versions(versions, str(tmp_path), target, None)
    combined = lines(target / "medical_gemma_instruct_dataset/train.jsonl")
    assert [list(row) for row in combined[:1]] == [["output", "input", "instruction", "prompt"]]
    assert [row["input"] for row in combined] == [f"w{n}?" for n in range(5000)] + [
        f"m{n}?" for n in range(4000)
    ]
    short = lines(target / "medical_llama_instruct_dataset_short/train.jsonl")
    assert [row["input"] for row in short] == [
        row["input"] for row in [*combined[:1000], *combined[-5000:-4000]]
    ]
    assert short[0]["prompt"] == (
        f"[s][INST] {instruct.INSTRUCTION} This is the question: w0? [/INST] \\n w0.[/s]"
    )
    assert len(lines(target / "mistral_medquad_instruct_dataset/train.jsonl")) == 4000
    sample = importing.Subset("sample", rows=90, seed=1)
    importing.import_versions(("gemma/combined",), str(tmp_path), tmp_path / "few", sample)
    few = lines(tmp_path / "few/medical_gemma_instruct_dataset/train.jsonl")
    assert sum(row["input"].startswith("w") for row in few) == 50


def test_multiclinsum_has_one_test_file_per_language(tmp_path: Path) -> None:
    for lang in ("en", "es", "fr", "pt"):
        found = [{"input": f"{lang} {n}", "output": "x", "rationale": "r"} for n in range(100)]
        (tmp_path / f"multiclinsum_gs_{lang}.json").write_text(json.dumps(found))
    target = tmp_path / "out"
    importing.import_corpus(
        "multiclinsum", str(tmp_path), target, ("train", "validation", "test"), CorpusOptions()
    )
    assert [len(lines(target / f"{name}.jsonl")) for name in ("train", "validation", "test", "test_fr")] == [
        320,
        4,
        76,
        19,
    ]
    assert {row["lang"] for row in lines(target / "test_pt.jsonl")} == {"pt"}


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("svamp", "svamp_palm"),
        ("generic", "generic"),
        ("medqa_d2n", "medistill_d2n"),
        ("medqa_n2d", "mts_dialog"),
        ("medquad", "medquad"),
        ("bc5cdr", "bc5cdr"),
        ("bc5cdr_chemical", "bc5cdr"),
        ("ncbi_disease", "ncbi_disease"),
    ],
)
def test_every_row_of_a_published_corpus_is_a_record(
    name: str, folder: str, corpora_folder: Path, tmp_path: Path
) -> None:
    source = str(corpora_folder / folder)
    splits, preset = corpora.splits(name, source), corpora.presets(name)
    account = importing.import_corpus(name, source, tmp_path / "out", splits, CorpusOptions())
    for split in splits:
        found = lines(tmp_path / f"out/{split}.jsonl")
        assert len(found) == account["splits"][split]["rows"] > 0
        records = [parse(row, preset.columns, form=preset.form, source=name, number=0) for row in found]
        assert len({record.origin.id for record in records}) == len(found)
        assert not any(isinstance(record, BadRowError) for record in records)


def test_extraction_has_the_processed_files_too(corpora_folder: Path, tmp_path: Path) -> None:
    importing.import_corpus(
        "bc5cdr_disease", str(corpora_folder / "bc5cdr"), tmp_path / "out", ("train",), CorpusOptions()
    )
    folder = tmp_path / "out/collate/ner/bc5cdr_disease"
    processed = json.loads((folder / "bc5cdr_disease_train_processed.json").read_text())
    assert len(processed) == len(lines(folder / "bc5cdr_disease_train_rich.jsonl")) == 500
    assert all(
        len({answer.lower() for answer in answers}) == len(answers) for _, answers in processed.values()
    )
