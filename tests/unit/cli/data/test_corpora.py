"""The command `medray data import` reads and writes the right files, and refuses wrong input."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest

from medray.cli.data import corpora
from medray.cli.main import main
from medray.data.corpora import instruct
from medray.errors import InputError


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    corpora.add_to(parser.add_subparsers())
    arguments = parser.parse_args(["import", *map(str, words)])
    return int(arguments.run(arguments))


def write(file: Path, *rows: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, rows)))


def count(file: Path) -> int:
    return len(file.read_text().splitlines())


@pytest.fixture
def svamp(tmp_path: Path) -> Path:
    """Write SVAMP with three completions: two are right, one cannot be parsed."""
    folder = tmp_path / "corpora/svamp"
    write(folder / "svamp_train.json", *({"input": f"{n}?", "label": f"( {n}.0 )"} for n in range(3)))
    write(folder / "svamp_test.json", {"input": "9?", "label": "( 9.0 )"})
    (folder / "llm").mkdir()
    (folder / "llm/train_CoT_0.json").write_text(
        json.dumps(["A. The answer is (0).", "B. The answer is (1).", "C"])
    )
    return folder


def test_all_existing_splits(svamp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("svamp", svamp, tmp_path / "out", "--json") == 0
    shown = capsys.readouterr()
    assert "66.67%" in shown.err
    printed = json.loads(shown.out)["svamp"]
    assert printed == json.loads((tmp_path / "out/import.json").read_text())
    assert printed["splits"]["train"]["teacher"]["labelled_right"] == 2
    assert printed["splits"]["test"]["teacher"] is None
    assert (count(tmp_path / "out/train.jsonl"), count(tmp_path / "out/test.jsonl")) == (3, 1)


def test_one_split_with_the_teachers_labels_and_options_anywhere(svamp: Path, tmp_path: Path) -> None:
    assert run("--split", "train", "svamp", "--label-source", "llm", svamp, tmp_path / "out") == 0
    labels = [json.loads(line)["label"] for line in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    assert labels == ["(0)", "(1)", " "]
    assert not (tmp_path / "out/test.jsonl").exists()


def test_all_corpora_of_a_folder(svamp: Path, tmp_path: Path) -> None:
    write(svamp.parent / "generic/generic_train.json", {"input": "a", "label": "b"})
    write(svamp.parent / "train.json", {"input": "of nobody", "label": "b"})
    assert run("all", svamp.parent, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["generic", "svamp"]
    with pytest.raises(InputError, match="no folder that is named after a corpus"):
        run("all", svamp, tmp_path / "none")


def test_folders_that_give_no_corpus_are_named_with_the_reason(
    svamp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = svamp.parent
    for file in ("pubmedqa/x.json", "esnly/esnli_train.json", "cqa/cqa_test.json", ".git/head", "a/b.json"):
        write(root / file, {"question": "a", "input": "a", "label": "b"})
    (root / "svamp_palm").symlink_to(svamp)
    assert run("all", root, tmp_path / "out", "--json") == 0
    shown = capsys.readouterr()
    skipped = json.loads(shown.out)["skipped"]
    assert skipped == {
        "a": "medray knows no corpus with a folder of this name",
        "cqa": "the folder has no file of the train split of cqa, only of test",
        "esnly": "medray knows no corpus with a folder of this name; did you mean esnli?",
        "pubmedqa": "medray knows no corpus with a folder of this name",
        "svamp_palm": "svamp is read from svamp",
    }
    for folder, reason in skipped.items():
        assert f"{folder}: {reason}" in shown.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["svamp"]


def test_numbers_are_those_of_the_lines_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"input": f"{n}?", "label": f"( {n}.0 )"}) for n in range(6)]
    rows[1], rows[3] = '{"input": "x"', '{"input": "no label"}'
    folder, out = tmp_path / "svamp", tmp_path / "out"
    (folder / "llm").mkdir(parents=True)
    (folder / "svamp_train.jsonl").write_text("\n".join(rows) + "\n\n")
    (folder / "svamp_test.jsonl").write_text("\n".join(rows[3:]) + "\n")
    completions = ["A. The answer is (0).", "-", "C", "-", "The answer is (4).", ""]
    (folder / "llm/train_CoT_0.json").write_text(json.dumps(completions))
    assert run("svamp", folder, out, "--json") == 0
    shown = capsys.readouterr()
    splits = json.loads(shown.out)["svamp"]["splits"]
    assert {split: found["rows"] for split, found in splits.items()} == {
        split: count(out / f"{split}.jsonl") for split in ("train", "test")
    }
    assert (splits["train"]["rows"], splits["test"]["rows"]) == (4, 2)
    bad = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    reasons = ["not valid JSON", "no column 'label' or 'output'", "no column 'label' or 'output'"]
    assert [each["reason"] for each in bad] == reasons
    rejects = [each["split"] for each in bad]
    assert {split: found["rejected"] for split, found in splits.items()} == {
        split: rejects.count(split) for split in ("train", "test")
    }
    teacher = splits["train"]["teacher"]
    assert (teacher["rows"], teacher["parse_failures_label"], teacher["parse_failures_rationale"]) == (
        4,
        2,
        3,
    )
    title, head, train, test = (line.split() for line in shown.err.splitlines()[:4])
    assert title[-1] == str(out)
    assert " ".join(head) == (
        "rows written rejected left out published no rationale label not parsed rationale not parsed teacher is right"
    )
    assert train == ["train", "4", "2", "0", "800", "3", "2", "3", "50.00%"]
    assert test == ["test", "2", "1", "0", "200", "2"]
    assert f"train: 2; {out}/rejects.jsonl has the reason of each" in shown.err


def test_the_corpus_itself_is_not_reported_as_a_perfect_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "generic_train.json", {"input": "a", "label": "b", "rationale": "c"})
    assert run("generic", tmp_path, tmp_path / "out") == 0
    assert "100.00%" not in capsys.readouterr().err


def test_versions(tmp_path: Path) -> None:
    for name in ("wikidoc", "medquad"):
        write(tmp_path / f"{name}.jsonl", *({"input": f"{name} {n}?", "output": "a"} for n in range(20)))
    assert run("medquad", tmp_path, tmp_path / "all", "--all", "--rows", 10, "--seed", 2) == 0
    folders = [path.parent.name for path in (tmp_path / "all").glob("*/train.jsonl")]
    assert sorted(folders) == sorted(map(instruct.published_name, instruct.VERSIONS))
    assert {count(tmp_path / f"all/{folder}/train.jsonl") for folder in folders} == {10}
    account = json.loads((tmp_path / "all/import.json").read_text())
    assert {name: found["rows"] for name, found in account["splits"].items()} == dict.fromkeys(folders, 10)
    assert account["splits"]["gemma_medquad_instruct_dataset"]["dropped"] == {"not in the subset": 10}
    assert {name: found["rows"] for name, found in account["sources"].items()} == {
        "wikidoc": 20,
        "medquad": 20,
    }
    one = ("medquad", tmp_path, tmp_path / "one", "--version", "gemma/combined", "--version", "llama/wikidoc")
    assert run(*one) == 0
    assert count(tmp_path / "one/medical_gemma_instruct_dataset/train.jsonl") == 40
    assert count(tmp_path / "one/llama_medical_meadow_wikidoc_instruct_dataset/train.jsonl") == 20
    with pytest.raises(InputError, match="6,000 rows"):
        run("medquad", tmp_path, tmp_path / "short", "--version", "gemma/combined_short")
    with pytest.raises(InputError, match="is not a version"):
        run("medquad", tmp_path, tmp_path / "wrong", "--version", "gpt/combined")


def test_a_sample_is_in_record_form(tmp_path: Path) -> None:
    write(
        tmp_path / "medquad.jsonl",
        *({"question": f"{n}?", "answer": "a", "source": "NIH"} for n in range(50)),
    )
    assert run("medquad", tmp_path, tmp_path / "out", "--rows", 5) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert set(rows[0]) == {"id", "instruction", "input", "output", "source"}
    account = json.loads((tmp_path / "out/import.json").read_text())
    assert account["splits"]["train"]["dropped"] == {"not in the subset": 45}


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("nothing", "SRC", "out"), "NAME"),
        (("svamp", "/not/there", "out"), "SOURCE"),
        (("svamp", "SRC", "out", "--split", "validation"), "--split"),
        (("svamp", "SRC", "out", "--subset", "slices"), "--subset"),
        (("svamp", "SRC", "out", "--rows", "5"), "--rows"),
        (("svamp", "SRC", "out", "--eos-token", "<end>"), "--eos-token"),
        (("svamp", "SRC", "out", "--pair-join", "eos"), "--pair-join"),
        (("svamp", "SRC", "out", "--version", "gemma/medquad"), "NAME"),
        (("svamp", "SRC", "out", "--teacher", "gpt"), "method.teacher"),
        (("medquad", "SRC", "out", "--teacher", "palm"), "--teacher"),
        (("medquad", "SRC", "out", "--subset", "slices", "--rows", "5"), "--rows"),
        (("medquad", "SRC", "out", "--subset", "small"), "--subset"),
        (("medquad", "SRC", "out", "--rows", "0"), "--rows"),
        (("medquad", "SRC", "out", "--seed", "-1", "--rows", "1"), "--seed"),
        (("esnli", "SRC", "out", "--legacy-and"), "--legacy-and"),
    ],
)
def test_options_without_effect_and_missing_files_are_refused(
    words: tuple[str, ...], key: str, svamp: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        run(
            *(
                str(svamp) if word == "SRC" else str(tmp_path / word) if word == "out" else word
                for word in words
            )
        )
    assert caught.value.key == key
    assert caught.value.fix or key == "--split"
    assert not (tmp_path / "out").exists()


def test_files_that_are_absent_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cqa_train"):
        run("cqa", tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "says"),
    [("svmap", "did you mean svamp? If not, use all, or one of cqa"), ("zzz", "use all, or one of cqa")],
)
def test_a_wrong_name_gives_the_nearest_and_the_list(
    name: str, says: str, svamp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    umask = os.umask(0o022)
    try:
        assert main(["data", "import", name, str(svamp), str(tmp_path / "out")]) == 2
    finally:
        os.umask(umask)
    shown = capsys.readouterr().err
    assert f"Fix: {says}" in shown
    assert "biorelex" in shown
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError) as caught:  # the name comes first: a folder for it cannot be right
        run(name, "/not/there", tmp_path / "out")
    assert caught.value.key == "NAME"
