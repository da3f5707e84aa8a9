"""`medray eval`: scores of files and runs, comparison, rows, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from heavy_imports import run

from medray.cli.main import main
from medray.config import Config, dump
from medray.data.index.membership import ShardSpec, SplitIndex
from medray.data.shards.seal import MANIFEST
from medray.data.shards.shard_file import write_shard
from medray.evaluate.metrics import Entity, Reference, score
from medray.storage.json_files import write_sealed

WORDS = ["fever", "cough", "no", "denies", "has", "pain", "chest", "rash"]


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two files over the same 60 references: an answer of the first has up to 2 wrong words, one of the second 2 to 5."""
    draw = random.Random(0)
    made: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for number in range(60):
        wanted = draw.choices(WORDS, k=10)
        for least, rows in zip((0, 2), made, strict=True):
            wrong = least + draw.randint(0, 2 + least // 2)
            said = [*("oops" for _ in range(wrong)), *wanted[wrong:]]
            rows.append({"id": f"row-{number}", "prediction": " ".join(said), "reference": " ".join(wanted)})
    return write(tmp_path / "a.jsonl", made[0]), write(tmp_path / "b.jsonl", made[1])


def said(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["eval", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["eval", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Fix: " in err
    return err


def test_numbers_of_a_file_are_those_of_training_with_intervals(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    expected = score(
        ["rouge", "bleu", "exact_match"],
        [row["prediction"] for row in rows],
        [Reference(row["reference"]) for row in rows],
    )
    [found] = said(capsys, files[0], "--metrics", "rouge,bleu,exact_match")["files"]
    numbers = {name: each for metric in found["metrics"].values() for name, each in metric.items()}
    assert {name: each["value"] for name, each in numbers.items()} == expected
    for each in numbers.values():
        assert each["low"] - 1e-9 <= each["value"] <= each["high"] + 1e-9  # sums in another order
    assert numbers["bleu"]["low"] < numbers["bleu"]["high"]
    assert (found["file"], found["rows"], found["warnings"]) == ("a.jsonl", 60, [])


def test_comparison_rows_and_tables(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    words = ["--compare", *files, "--metrics", "bleu,length", "--samples", "200", "--rows", out]
    found = said(capsys, *words)["comparison"]
    bleu = found["numbers"]["bleu"]
    assert (found["first"], found["second"], found["rows"]) == ("a.jsonl", "b.jsonl", 60)
    assert bleu["difference"] == pytest.approx(bleu["second"] - bleu["first"])
    assert bleu["low"] < bleu["difference"] < bleu["high"] < 0
    assert bleu["p"] == pytest.approx(1 / 201)
    assert found["numbers"]["length_ratio"]["p"] == 1.0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 120
    assert {type(value) for row in rows for name, value in row.items() if name not in ("file", "id")} == {
        float
    }
    assert "exists already" in refused(capsys, *words)
    assert main(["eval", *map(str, words), "--force", "--show-text"]) == 0
    shown = capsys.readouterr().out
    assert "b.jsonl minus a.jsonl: 60 rows in both" in shown
    assert "cough" not in shown
    assert "cough" in out.read_text()


def test_several_files_give_one_table_and_collapse_is_flagged(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        json.loads(line) | {"prediction": "no", "finish": "length"}
        for line in files[0].read_text().splitlines()
    ]
    useless = write(tmp_path / "c.jsonl", rows)
    assert main(["eval", *map(str, [*files, useless])]) == 0
    out = capsys.readouterr().out
    assert out.count("\n  rouge1 ") == 1
    assert "c.jsonl: 60 rows" in out
    assert "warning: c.jsonl: 60 of 60 predictions are the same text, although the references differ" in out
    assert "warning: c.jsonl: 60 of 60 predictions reached the longest length" in out
    assert "warning: a.jsonl" not in out


def make_run(folder: Path, *, shards: bool) -> Path:
    """Write the folder of a finished run whose predictions have no references, and its token shards."""
    run_folder = folder / "runs" / "one"
    run_folder.mkdir(parents=True)
    tree = {
        "run": {"storage": str(folder / "runs"), "name": "one"},
        "eval": {"metrics": ["rouge", "entity_f1"]},
    }
    (run_folder / "config.yaml").write_text(dump(Config.model_validate(tree)))
    tokens = folder / "runs" / "tokens" / "abc"
    (run_folder / "data.json").write_text(json.dumps({"tokens": str(tokens / "train")}))
    write(
        run_folder / "predictions.jsonl",
        [{"id": "x", "prediction": "no fever"}, {"id": "y", "prediction": "cough"}],
    )
    if shards:
        for split in ("train", "validation"):
            (tokens / split).mkdir(parents=True)
            write_sealed(tokens / split / MANIFEST, {"rows": 2})
        truth = [
            ("no fever", [{"text": "fever", "assertion": "absent"}]),
            ("a cough", [{"text": "cough", "assertion": "present"}]),
        ]
        write_shard(tokens / "validation", 0, ["x", "y"], {}, "causal", truth=truth)
        index = SplitIndex(shards=(ShardSpec(index=0, source=0, position=0, first=0, raw_rows=2, rows=2),))
        index.write(tokens / "validation" / "index.json")
    return run_folder


def test_a_run_is_scored_by_its_own_metrics_with_references_of_its_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, shards=True)
    [found] = said(capsys, folder)["files"]
    expected = score(
        ["rouge", "entity_f1"],
        ["no fever", "cough"],
        [Reference("no fever", (Entity("fever", "absent"),)), Reference("a cough", (Entity("cough"),))],
    )
    numbers = {name: each["value"] for metric in found["metrics"].values() for name, each in metric.items()}
    assert {name: numbers[name] for name in expected} == expected
    assert list(found["metrics"]) == ["rouge", "entity_f1", "length"]
    assert found["classes"]["entity_f1"]["absent"]["hits"] == 1


def test_a_run_without_shards_or_predictions_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, shards=False)
    assert "needs references" in refused(capsys, folder)
    (folder / "predictions.jsonl").unlink()
    assert "no predictions of its validation split" in refused(capsys, folder)


def test_wrong_arguments(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = files[0]
    for words, message in (
        ([], "there is nothing to score"),
        ([first, "--metrics", "rogue"], "did you mean rouge?"),
        ([first, "--metrics", "bleurt"], "medray does not compute bleurt"),
        ([first, "--metrics", ","], "the list is empty"),
        ([first, "--columns", "text=x"], "is not COLUMN=NAME"),
        ([first, "--samples", "-1"], "between 0 and 100000"),
        ([first, "--confidence", "95"], "below 1"),
        ([first, "--show-text"], "add --rows FILE"),
        ([first, "--bleu-tokenizer", "x"], "use one of 13a"),
        ([first, "--metrics", "length", "--tokenizer", "nowhere"], "no tokenizer in the folder nowhere"),
        ([first, "--metrics", "ner_f1"], "needs a JSON list in every reference"),
        (["--compare", first, first], "A and B are the same file"),
        ([tmp_path / "none.jsonl"], "cannot be read"),
        ([tmp_path], "neither a run"),
        (["https://me:secret@host/x.jsonl"], "user name or a password"),
        ([first, "--columns", "reference=none"], "there is no column 'none' for reference"),
        (
            [first, "--references", files[1], "--columns", "group=none"],
            "no file has a column 'none' for group",
        ),
    ):
        assert message in refused(capsys, *words), words


def test_exact_metrics_import_neither_torch_nor_ray(files: tuple[Path, Path]) -> None:
    code = (
        "import sys\nfrom medray.cli.main import main\n"
        f"code = main(['eval', {str(files[0])!r}, '--metrics', 'bleu,exact_match,length'])\n"
        "print(sorted({'torch', 'ray', 'transformers', 'pandas'} & set(sys.modules)), code)"
    )
    done = run("-c", code, folder=files[0].parent)
    assert done.stdout.splitlines()[-1:] == ["[] 0"], done.stderr
