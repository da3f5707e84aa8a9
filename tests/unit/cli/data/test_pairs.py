"""`medray data pairs`: documents, the clinic and published pairs to rows of prompt, chosen, rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medray.cli.main import main
from medray.config import read
from medray.data.encode.render import reading
from medray.data.index.row_index import records
from medray.data.index.sources import sources
from medray.data.records import Preference
from medray.data.shards.preparation import encode_spec

TEXT = "Acute nephritis after gold sodium therapy. The patients tolerated aspirin without gastric bleeding."


def document(number: int) -> dict[str, Any]:
    def entity(name: str, kind: str, text: str) -> dict[str, Any]:
        at = TEXT.index(text)
        return {"id": name, "type": kind, "text": [text], "offsets": [[at, at + len(text)]], "normalized": []}

    return {
        "id": f"d{number}",
        "document_id": f"d{number}",
        "passages": [{"id": "p", "type": "abstract", "text": [TEXT], "offsets": [[0, len(TEXT)]]}],
        "entities": [
            entity("1", "Disease", "Acute nephritis"),
            entity("2", "Chemical", "gold sodium"),
            entity("3", "Chemical", "aspirin"),
            entity("4", "Disease", "gastric bleeding"),
        ],
        "relations": [],
        "events": [],
        "coreferences": [],
    }


def config(folder: Path, **data: Any) -> Path:
    tree = {
        "run": {"storage": str(folder / "runs"), "name": "one"},
        "model": {"name": None, "init": "random", "preset": "llama-tiny"},
        "data": {"tokenizer": "train", "vocab_size": 300} | data,
        "cluster": {"workers": 1},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))
    return folder / "run.yaml"


def made(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(document(n)) + "\n" for n in range(20)))
    return config(
        tmp_path,
        train=[{"path": str(tmp_path / "documents.jsonl"), "form": "bigbio"}],
        extraction={"answer": "entities", "types": ["Chemical"]},
    )


def test_documents_give_pairs_with_the_prompt_of_training(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs.jsonl"
    assert main(["data", "pairs", str(documents), "--to", str(out), "--per-record", "2", "--json"]) == 0
    rows, counts = made(out), json.loads(capsys.readouterr().out)
    assert len(rows) == 40
    assert counts["pairs"] == sum(counts["by_strategy"].values()) == 40
    assert len({row["id"] for row in rows}) == 40
    assert {row["strategy"] for row in rows} == {"drop", "add", "shift", "type", "duplicate"}
    assert {row["chosen"] for row in rows} == {'["gold sodium", "aspirin"]'}
    assert all(json.loads(row["rejected"]) != json.loads(row["chosen"]) for row in rows)
    # A run on the pairs reads the prompt that a run on the documents reads.
    before = read(documents)
    spec = encode_spec(before, "causal")
    record = next(each[3] for each in records(sources(before, "train")[0]))
    pair_config = read(config(tmp_path, train=[str(out)]))
    pair = next(each[3] for each in records(sources(pair_config, "train")[0]))
    assert isinstance(pair, Preference)
    asked, again = (reading(each, "label", spec) for each in (record, pair))  # type: ignore[arg-type]
    assert asked is not None
    assert again is not None
    assert ["".join((t.lead, t.text or "")) for t in asked.turns] == [
        "".join((t.lead, t.text or "")) for t in again.turns
    ]


def test_seed_and_strategies_decide(documents: Path, tmp_path: Path) -> None:
    def rows(*words: str) -> list[dict[str, Any]]:
        assert (
            main(["data", "pairs", str(documents), "--to", str(tmp_path / "p.jsonl"), "--force", *words]) == 0
        )
        return made(tmp_path / "p.jsonl")

    assert rows("--seed", "3") == rows("--seed", "3")
    assert rows("--seed", "3") != rows("--seed", "4")
    assert {row["strategy"] for row in rows("--strategy", "drop")} == {"drop"}


def test_the_clinic_gives_its_named_errors(tmp_path: Path) -> None:
    file = config(tmp_path, dataset="clinic", clinic={"train_rows": 30})
    assert main(["data", "pairs", str(file), "--to", str(tmp_path / "pairs.jsonl")]) == 0
    rows = made(tmp_path / "pairs.jsonl")
    assert len(rows) == 30
    assert {row["strategy"] for row in rows} <= {
        "clinic/flipped_negation",
        "clinic/wrong_dose",
        "clinic/missed_allergy",
    }
    assert all(row["chosen"] != row["rejected"] for row in rows)


def test_published_pairs_are_kept_but_not_equal_ones(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a?", "chosen": "yes", "rejected": "no"},
        {"prompt": "b?", "chosen": "Yes", "rejected": "yes "},
    ]
    (tmp_path / "published.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = config(tmp_path, train=[str(tmp_path / "published.jsonl")])
    assert main(["data", "pairs", str(file), "--to", str(tmp_path / "pairs.jsonl")]) == 0
    (row,) = made(tmp_path / "pairs.jsonl")
    assert (row["prompt"], row["chosen"], row["rejected"], row["strategy"]) == (
        "a?",
        "yes",
        "no",
        "published",
    )


@pytest.mark.parametrize(
    ("words", "data", "says"),
    [
        (["--per-record", "0"], {}, "--per-record = 0"),
        (["--split", "validation"], {}, "no validation data"),
        ([], {"train": ["plain.jsonl"]}, "1 records give no pair"),
    ],
)
def test_wrong_input_is_refused_and_nothing_is_written(
    words: list[str],
    data: dict[str, Any],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.jsonl").write_text('{"input": "secret text", "label": "b"}\n')
    file = config(tmp_path, **(data or {"dataset": "clinic", "clinic": {"validation_rows": 0}}))
    assert main(["data", "pairs", str(file), "--to", "pairs.jsonl", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Fix: " in error
    assert "secret" not in error
    assert not Path("pairs.jsonl").exists()


def judged_row(identity: str, verdicts: tuple[str, str], human: str | None = None) -> dict[str, Any]:
    item = {"id": identity, "input": "shown", "answer": f"wrong {identity}", "gold": None}
    names = ["one", "two"]
    return {
        "judges": names,
        "verdicts": dict(zip(names, verdicts, strict=True)),
        "reasons": dict.fromkeys(names, ""),
        "human_verdict": human,
        "note": "",
        "item": item | {"expected": None, "exact": True},
        "content": "0",
    }


def test_answers_that_were_finally_judged_wrong_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [{"id": f"r{n}", "input": f"Doctor: {n}?", "label": f"Note {n}."} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    asked = config(tmp_path, train=str(tmp_path / "rows.jsonl"), prompts={"label": "Write the note"})
    folder = tmp_path / "judged"
    words = ["data", "pairs", str(asked), "--from-judged", str(folder), "--to", str(tmp_path / "out.jsonl")]
    assert main(words) == 2
    assert "medray judge" in capsys.readouterr().err
    folder.mkdir()
    rows = [
        judged_row("r0", ("incorrect", "incorrect")),
        judged_row("r1", ("correct", "correct")),
        judged_row("r2", ("correct", "incorrect")),
        judged_row("r3", ("correct", "incorrect"), "partially_correct"),
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(words) == 0
    found = made(tmp_path / "out.jsonl")
    kept = ("id", "prompt", "chosen", "rejected", "verdict", "path")
    assert [[row[name] for name in kept] for row in found] == [
        ["r0#judged", "Write the note:\nDoctor: 0?", "Note 0.", "wrong r0", "incorrect", "judges"],
        ["r3#judged", "Write the note:\nDoctor: 3?", "Note 3.", "wrong r3", "partially_correct", "person"],
    ]
    assert main([*words, "--from-model", "runs/one", "--force"]) == 2
    assert "remove --from-model or --from-judged" in capsys.readouterr().err
