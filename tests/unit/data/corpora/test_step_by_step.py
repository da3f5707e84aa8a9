"""The corpora of Distilling Step-by-Step: their inputs, labels and teachers, and the splits of the raw files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medray.data import corpora
from medray.data.corpora import CorpusOptions
from medray.data.corpora.teachers import ROWS_PER_FILE
from medray.data.records import BadRowError
from medray.errors import InputError


def write(file: Path, value: Any, *, lines: bool = False) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, value)) if lines else json.dumps(value)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)
    return file


def rows(name: str, root: Path, split: str = "train", **options: Any) -> list[dict[str, Any]]:
    found = [each.row for each in corpora.rows(name, str(root), split, CorpusOptions(**options))]
    assert not any(isinstance(row, BadRowError) for row in found)
    return found  # type: ignore[return-value]


def solved(count: int) -> list[str]:
    return [f"It is {n}. The answer is ({n} + 1).\n\nQ: next" for n in range(count)]


def svamp(root: Path, train: int = 3, test: int = 2) -> Path:
    for split, count in (("train", train), ("test", test)):
        ready = [{"input": f"{split} {n}?", "label": f"( {n}.0 + 1.0 )"} for n in range(count)]
        write(root / f"svamp_{split}.json", ready, lines=True)
    return root


def test_cqa_asks_with_its_choices_and_answers_with_a_text(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "question": "Where is it hot?",
        "choices": ["sea", "desert", "ice", "moon", "bed"],
        "answer": "desert",
        "abstractive_explanation": "x",
        "extractive_explanation": "y",
    }
    write(tmp_path / "cqa/cqa_train.json", [row], lines=True)
    write(tmp_path / "cqa/llm/train_CoT_0.json", ["Deserts are. So the answer is (b) desert."])
    assert rows("cqa", tmp_path) == [
        {
            "id": "cqa-train-0",
            "input": "Where is it hot?\nAnswer Choices:\n(a) sea\n(b) desert\n(c) ice\n(d) moon\n(e) bed",
            "label": "desert",
            "rationale": "Deserts are.",
        }
    ]


def test_cqa_is_tested_on_what_its_publisher_calls_validation(tmp_path: Path) -> None:
    for name, answer in (("validation", "a"), ("test", "b")):
        row = {"question": "?", "choices": list("abcde"), "answer": answer}
        write(tmp_path / f"{name}.jsonl", [row], lines=True)
    assert rows("cqa", tmp_path, "test")[0]["label"] == "a"


@pytest.mark.parametrize("name", ["esnli", "anli1"])
def test_pairs_are_joined_by_the_text_of_the_end_token(name: str, tmp_path: Path) -> None:
    found = [{"premise": "A man runs.", "hypothesis": "He moves.", "label": label} for label in (0, 1, 2)]
    write(tmp_path / f"{name}_train.json", found, lines=True)
    made = rows(name, tmp_path)
    assert [row["label"] for row in made] == ["entailment", "neutral", "contradiction"]
    assert made[0]["input"] == "A man runs.</s>He moves."
    assert rows(name, tmp_path, eos_token="<|end|>")[0]["input"] == "A man runs.<|end|>He moves."
    assert rows(name, tmp_path, pair_join="newline")[0]["input"] == "A man runs.\nHe moves."


def test_anli_as_its_authors_publish_it(tmp_path: Path) -> None:
    row = {"uid": "u", "context": "A man runs.", "hypothesis": "He moves.", "label": "e", "reason": "r"}
    write(tmp_path / "R1/dev.jsonl", [row], lines=True)
    assert rows("anli1", tmp_path, "validation")[0]["label"] == "entailment"


def test_pair_join_is_refused_where_there_are_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no premise"):
        rows("svamp", svamp(tmp_path), pair_join="eos")


def test_a_bad_row_keeps_its_completion_aligned(tmp_path: Path) -> None:
    pair = {"premise": "A", "hypothesis": "B"}
    write(tmp_path / "esnli_train.json", [{**pair, "label": -1}, {**pair, "label": 1}], lines=True)
    write(tmp_path / "llm/train_CoT_0.json", ["first Answer: neutral", "second Answer: contradiction"])
    bad, good = corpora.rows("esnli", str(tmp_path), "train", CorpusOptions(label_source="llm"))
    assert isinstance(bad.row, BadRowError)
    assert (bad.file, bad.line) == ("esnli_train.json", 1)
    assert good.row == {
        "id": "esnli-train-1",
        "input": "A</s>B",
        "label": "contradiction",
        "rationale": "second",
    }


def test_the_raw_file_of_svamp_is_permuted_and_split(tmp_path: Path) -> None:
    raw = [
        {"Body": f"body {n}", "Question": "q?", "Equation": f"( {n}.0 )", "Answer": n} for n in range(1000)
    ]
    write(tmp_path / "SVAMP.json", raw)
    order = np.random.RandomState(0).permutation(1000).tolist()
    train, test = rows("svamp", tmp_path), rows("svamp", tmp_path, "test")
    assert [row["input"] for row in train] == [f"body {n}\nq?" for n in order[:800]]
    assert [row["label"] for row in test] == [f"( {n}.0 )" for n in order[800:]]


def test_asdiv_comes_after_svamp_in_train_only(tmp_path: Path) -> None:
    svamp(tmp_path / "svamp")
    write(tmp_path / "svamp/llm/train_CoT_0.json", solved(3))
    source = {
        "Body": "Seven apples and two.",
        "Question": "How many?",
        "Formula": "7+2=9",
        "Answer": "9 (apples)",
    }
    write(tmp_path / "asdiv/asdiv_train.json", [source], lines=True)
    write(tmp_path / "asdiv/llm/train_CoT_0.json", ["Together. The answer is (7 + 2)."])
    for root in (tmp_path, tmp_path / "asdiv"):  # svamp inside the folder, or next to it
        made = rows("asdiv", root)
        assert [row["id"] for row in made] == [
            "svamp-train-0",
            "svamp-train-1",
            "svamp-train-2",
            "asdiv-train-0",
        ]
        assert made[3]["input"] == "Seven apples and two.\nHow many?"
        assert (made[3]["label"], made[3]["rationale"]) == ("9", "Together.")
        assert [row["id"] for row in rows("asdiv", root, "test")] == ["svamp-test-0", "svamp-test-1"]
    report = corpora.teacher_report("asdiv", str(tmp_path), "train", CorpusOptions())
    assert report is not None
    assert (report.rows, report.labelled_right) == (4, 4)


def test_asdiv_xml(tmp_path: Path) -> None:
    svamp(tmp_path / "svamp")
    (tmp_path / "ASDiv.xml").write_text(
        "<Machine-Reading-Corpus-File><ProblemSet><Problem ID='n'><Body>Seven.</Body><Question>How many?</Question>"
        "<Answer>9 (apples)</Answer><Formula>7+2=9</Formula></Problem></ProblemSet></Machine-Reading-Corpus-File>"
    )
    assert rows("asdiv", tmp_path)[-1] == {"id": "asdiv-train-0", "input": "Seven.\nHow many?", "label": "9"}


def test_the_teachers_label_replaces_the_label_in_train_only(tmp_path: Path) -> None:
    svamp(tmp_path)
    write(tmp_path / "llm/train_CoT_0.json", ["no", *solved(2)])
    write(tmp_path / "llm/test_CoT_0.json", solved(2))
    train = rows("svamp", tmp_path, label_source="llm")
    assert [row["label"] for row in train] == [" ", "(0 + 1)", "(1 + 1)"]
    assert train[0]["rationale"] == " "
    assert [row["label"] for row in rows("svamp", tmp_path, "test", label_source="llm")] == [
        "( 0.0 + 1.0 )",
        "( 1.0 + 1.0 )",
    ]
    assert rows("svamp", tmp_path)[0]["label"] == "( 0.0 + 1.0 )"


def test_a_missing_teacher_is_an_error_only_if_it_was_asked_for(tmp_path: Path) -> None:
    svamp(tmp_path)
    assert "rationale" not in rows("svamp", tmp_path)[0]
    for options in ({"teacher": "palm"}, {"label_source": "llm"}):
        with pytest.raises(InputError, match=r"train_CoT_\*"):
            rows("svamp", tmp_path, **options)
    with pytest.raises(InputError, match="gpt-neox/svamp/train"):
        rows("svamp", tmp_path, teacher="gpt")


def test_the_second_teacher_has_one_file_per_split(tmp_path: Path) -> None:
    svamp(tmp_path / "svamp")
    write(tmp_path / "gpt-neox/svamp/train.json", [f"\n {text}" for text in solved(3)])
    for root in (tmp_path, tmp_path / "svamp"):
        assert [row["rationale"] for row in rows("svamp", root, teacher="gpt")] == [
            "It is 0.",
            "It is 1.",
            "It is 2.",
        ]
    write(tmp_path / "asdiv/asdiv_train.json", [{"input": "x", "label": "1"}], lines=True)
    with pytest.raises(InputError, match=r"method\.teacher"):
        rows("asdiv", tmp_path, teacher="gpt")


@pytest.mark.parametrize(
    ("completions", "numbers"),
    [
        ([2], ("2 completions", "3 rows")),
        ([5], ("5 completions", "3 rows")),
        ([2, 1], ("2 files", "1 files")),
    ],
)
def test_rows_and_completions_must_have_the_same_number(
    completions: list[int], numbers: tuple[str, str], tmp_path: Path
) -> None:
    svamp(tmp_path)
    for number, count in enumerate(completions):
        write(tmp_path / f"llm/train_CoT_{number}.json", solved(count))
    with pytest.raises(InputError) as caught:
        rows("svamp", tmp_path)
    assert all(number in str(caught.value) for number in numbers)


def test_files_are_read_by_number_and_none_may_be_missing(tmp_path: Path) -> None:
    per_file = ROWS_PER_FILE["svamp"]
    svamp(tmp_path, train=per_file * 11)
    texts = solved(per_file * 11)
    for number in range(11):
        write(tmp_path / f"llm/train_CoT_{number}.json", texts[number * per_file : (number + 1) * per_file])
    made = rows("svamp", tmp_path)
    assert [row["rationale"] for row in made] == [f"It is {n}." for n in range(len(texts))]
    (tmp_path / "llm/train_CoT_4.json").unlink()
    with pytest.raises(InputError, match="number 4 is missing"):
        rows("svamp", tmp_path)


@pytest.mark.parametrize(
    ("value", "message"), [({"a": "b"}, "a JSON dict"), (["x", 3, "y"], "completion 2 is a int")]
)
def test_a_teachers_file_holds_a_list_of_texts(value: Any, message: str, tmp_path: Path) -> None:
    write(svamp(tmp_path) / "llm/train_CoT_0.json", value)
    with pytest.raises(InputError, match=message):
        rows("svamp", tmp_path)


def test_a_damaged_teachers_file(tmp_path: Path) -> None:
    file = write(svamp(tmp_path) / "llm/train_CoT_0.json", solved(3))
    file.write_text(file.read_text()[:-2])
    with pytest.raises(InputError, match="not valid JSON at line 1"):
        rows("svamp", tmp_path)
    file.write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match="not UTF-8 at byte 2"):
        rows("svamp", tmp_path)


def test_compressed_files(tmp_path: Path) -> None:
    write(tmp_path / "svamp_train.jsonl.gz", [{"input": "a", "label": "1"}], lines=True)
    write(tmp_path / "llm/train_CoT_0.json.gz", solved(1))
    assert rows("svamp", tmp_path)[0]["rationale"] == "It is 0."


def test_the_small_subset_of_esnli_is_its_first_ten_files(tmp_path: Path) -> None:
    per_file = ROWS_PER_FILE["esnli"]
    pair = {"premise": "A", "hypothesis": "B", "label": 0}
    write(tmp_path / "esnli_train.json", [pair] * (10 * per_file + 2), lines=True)
    for number in range(11):
        write(
            tmp_path / f"llm/train_CoT_{number}.json",
            ["x Answer: neutral"] * (per_file if number < 10 else 2),
        )
    assert len(rows("esnli", tmp_path)) == 10 * per_file + 2
    assert len(rows("esnli", tmp_path, subset="small")) == 10 * per_file


def test_find_names_the_teachers_files_too(tmp_path: Path) -> None:
    svamp(tmp_path)
    write(tmp_path / "llm/train_CoT_0.json", solved(3))
    found = corpora.find("svamp", str(tmp_path), "train")
    assert found == [str(tmp_path / "svamp_train.json"), str(tmp_path / "llm/train_CoT_0.json")]


def test_generic_has_its_own_rationales(tmp_path: Path) -> None:
    source = [{"input": "a", "label": 1, "rationale": "because"}, {"input": "b", "label": "2"}]
    write(tmp_path / "generic_train.json", source, lines=True)
    made = rows("generic", tmp_path)
    assert made[0] == {"id": "generic-train-0", "input": "a", "label": "1", "rationale": "because"}
    assert made[1] == {"id": "generic-train-1", "input": "b", "label": "2"}


def test_a_teachers_report(tmp_path: Path) -> None:
    svamp(tmp_path)
    write(tmp_path / "llm/train_CoT_0.json", [solved(1)[0], "Hm. The answer is (x + 1).", "nothing"])
    report = corpora.teacher_report("svamp", str(tmp_path), "train", CorpusOptions())
    assert report is not None
    assert (report.rows, report.labelled_right, report.not_computable) == (3, 1, 2)
    assert (report.parse_failures_label, report.parse_failures_rationale) == (1, 1)
    assert report.mean_rationale_words == pytest.approx(4 / 3)
    assert report.accuracy == pytest.approx(1 / 3)
    assert corpora.teacher_report("svamp", str(tmp_path), "test", CorpusOptions()) is None


@pytest.mark.parametrize(
    ("split", "legacy_and", "right", "not_computable"),
    [
        ("train", False, 586, 34),
        ("train", True, 588, None),
        ("test", False, 148, 7),
        ("test", True, 148, None),
    ],
)
def test_palm_on_svamp(
    corpora_folder: Path, split: str, legacy_and: bool, right: int, not_computable: int | None
) -> None:
    """Published figures: 73.25 % and 73.50 % of 800, 74.00 % of 200."""
    options = CorpusOptions(legacy_and=legacy_and)
    report = corpora.teacher_report("svamp", str(corpora_folder / "svamp_palm"), split, options)
    assert report is not None
    assert report.rows == corpora.counts("svamp")[split]
    assert report.labelled_right == right
    assert not_computable in (None, report.not_computable)


def test_svamp_and_generic_as_published(corpora_folder: Path) -> None:
    made = rows("svamp", corpora_folder / "svamp_palm")
    assert len(made) == 800
    assert all(set(row) == {"id", "input", "label", "rationale"} for row in made)
    assert not any("Q:" in row["rationale"] for row in made)
    assert len(rows("generic", corpora_folder / "generic")) == 3
    assert len(rows("generic", corpora_folder / "generic", "test")) == 2


def test_a_corpus_at_a_url(tmp_path: Path) -> None:
    import fsspec

    svamp(tmp_path)
    write(tmp_path / "llm/train_CoT_0.json", solved(3))
    store = fsspec.filesystem("memory")
    store.put(f"{tmp_path}/", "/shelf/svamp/", recursive=True)
    try:
        for root in ("memory://shelf", "memory://shelf/svamp/"):
            found = [each.row for each in corpora.rows("svamp", root, "train", CorpusOptions())]
            assert found == rows("svamp", tmp_path)
            assert [path.rsplit("/", 1)[-1] for path in corpora.find("svamp", root, "train")] == [
                "svamp_train.json",
                "train_CoT_0.json",
            ]
        with pytest.raises(InputError, match="looked for"):
            corpora.find("svamp", "memory://nowhere", "train")
    finally:
        store.rm("/shelf", recursive=True)
