"""The instruct builder reproduces cleaning, order, slices, samples, versions and prompts byte for byte."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medray.data import corpora
from medray.data.corpora import CorpusOptions, instruct
from medray.data.encode.templates import render
from medray.data.records import BadRowError
from medray.errors import InputError


def rows(name: str, root: Path) -> tuple[list[Any], Counter[str]]:
    dropped: Counter[str] = Counter()
    return [each.row for each in corpora.rows(name, str(root), "train", CorpusOptions(), dropped)], dropped


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("mistral", "<s>[INST] I This is the question: Q [/INST] \\n A</s>"),
        ("llama", "[s][INST] I This is the question: Q [/INST] \\n A[/s]"),
        ("llama2", "[s][INST] I This is the question: Q [/INST] \\n A[/s]"),
        (
            "llama3",
            "<|start_header_id|>system<|end_header_id|> I<|eot_id|><|start_header_id|>user<|end_header_id|> "
            "This is the question: Q<|eot_id|><|start_header_id|>assistant<|end_header_id|> A<|eot_id|>",
        ),
        (
            "gemma",
            "<start_of_turn>user I This is the question: Q<end_of_turn> \\n <start_of_turn>model A<end_of_turn>model",
        ),
    ],
)
def test_prompts_byte_for_byte(family: str, wanted: str) -> None:
    assert render(family, "I", "Q", "A") == wanted
    assert render(family, "{input}", "{output}", "%s{0}").count("{output}") == 1


def test_csv_as_the_published_builder_read_it(tmp_path: Path) -> None:
    (tmp_path / "medquad.csv").write_text(
        "question,answer,source,focus_area\n"
        "What is A?,It is A.,NIH,A\n"
        "What is A?,It is A.,GARD,A\n"
        "What is A?,It is more.,NIH,A\n"
        "What is B?,,NIH,B\n"
        "What is C?,N/A,NIH,C\n"
        "NA,Yes.,NIH,D\n"
        'What is " E"?,broken\n'
    )
    made, dropped = rows("medquad", tmp_path)
    assert made[0] == {
        "id": "medquad-train-0",
        "instruction": "Answer the question truthfully, you are a medical professional.",
        "input": "What is A?",
        "output": "It is A.",
        "source": "NIH",
    }
    assert [row["id"] for row in made[:2]] == ["medquad-train-0", "medquad-train-2"]
    assert [type(row) for row in made[2:]] == [BadRowError]
    assert dropped == {"repeats an earlier row": 1, "no question or no answer": 3}


def test_wikidocs_own_instruction_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "wikidoc.csv").write_text("output,input,instruction\nA cell.,What is it?,Say it\n")
    made, _ = rows("wikidoc", tmp_path)
    assert made[0]["instruction"] == instruct.INSTRUCTION
    assert (made[0]["output"], made[0]["source"]) == ("A cell.", "wikidoc")


def test_none_is_a_word_in_json(tmp_path: Path) -> None:
    found = [
        {"question": "None", "answer": "nan"},
        {"question": "x", "answer": None},
        {"question": "x", "answer": 3},
    ]
    (tmp_path / "medquad.jsonl").write_text("\n".join(map(json.dumps, found)))
    made, dropped = rows("medquad", tmp_path)
    assert made[0]["input"] == "None"
    assert isinstance(made[1], BadRowError)
    assert dropped == {"no question or no answer": 1}


def test_the_xml_collection(tmp_path: Path) -> None:
    for folder, number in (("1_CancerGov_QA", 1), ("10_ADAM_QA", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"000{number}.xml").write_text(
            f'<Document id="{number}" source="S{number}"><Focus>F</Focus><QAPairs>'
            f'<QAPair pid="1"><Question qid="{number}-1" qtype="t">What is {number}?</Question><Answer>It\n  is.</Answer></QAPair>'
            f'<QAPair pid="2"><Question qid="{number}-2" qtype="t">And?</Question><Answer/></QAPair></QAPairs></Document>'
        )
    made, dropped = rows("medquad", tmp_path)
    assert [(row["input"], row["output"], row["source"]) for row in made] == [
        ("What is 1?", "It is.", "S1"),
        ("What is 2?", "It is.", "S2"),
    ]
    assert dropped == {"no answer": 2}


def table(count: int) -> list[dict[str, Any]]:
    return [
        {"id": str(n), "input": f"q{n}", "output": f"a{n}", "instruction": "i", "source": "abc"[n % 10 // 4]}
        for n in range(count)
    ]


def test_the_short_set_is_a_head_and_a_slice_of_the_tail() -> None:
    found = instruct.short(table(9000))
    assert [int(row["id"]) for row in found] == [*range(1000), *range(4000, 5000)]
    with pytest.raises(InputError, match=r"6,000 rows.*5,999"):
        instruct.short(table(5999))


def test_a_sample_keeps_the_share_of_each_source() -> None:
    whole = table(1000)
    found = instruct.sample(whole, 101, 3)
    assert Counter(row["source"] for row in found) in (
        {"a": 41, "b": 40, "c": 20},
        {"a": 40, "b": 41, "c": 20},
    )
    assert len({row["id"] for row in found}) == 101
    assert [int(row["id"]) for row in found] == sorted(int(row["id"]) for row in found)
    assert instruct.sample(whole, 101, 3) == found
    assert instruct.sample(whole, 101, 4) != found
    assert instruct.sample(whole, 1000, 0) == whole
    with pytest.raises(InputError, match="1,000 rows"):
        instruct.sample(whole, 1001, 0)


def test_names_of_versions() -> None:
    assert len(instruct.VERSIONS) == 16
    assert instruct.published_name("gemma/combined_short") == "medical_gemma_instruct_dataset_short"
    assert instruct.published_name("llama2/combined") == "medical_llama2_instruct_dataset"
    assert instruct.published_name("llama/medquad") == "llama_medquad_instruct_dataset"
    assert instruct.published_name("llama3/wikidoc") == "llama3_medical_meadow_wikidoc_instruct_dataset"
    for wrong in ("gpt/combined", "gemma", "gemma/all", "/"):
        with pytest.raises(InputError, match="--version"):
            instruct.published_name(wrong)


def test_medquad_as_published(corpora_folder: Path) -> None:
    made, dropped = rows("medquad", corpora_folder / "medquad")
    assert len(made) == 1999
    assert dropped == {"repeats an earlier row": 1}
    assert len({row["source"] for row in made}) == 9
    assert len({row["id"] for row in made}) == 1999
