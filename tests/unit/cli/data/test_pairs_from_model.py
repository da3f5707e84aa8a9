"""`medray data pairs --from-model` in this process, with a stand-in for Ray: samples, resumption and wrong options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from exports import exported
from local_data import without_cluster

from medray.cli.main import main
from medray.config.columns import ColumnsConfig
from medray.data.records import Preference
from medray.data.schemas import parse
from medray.errors import RunFailedError
from medray.evaluate.prediction import job

ROWS = 70


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with without_cluster(monkeypatch, tmp_path):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, and a config whose training data has a bad row and a row without text to write."""
    made = tmp_path_factory.mktemp("export")
    exported(made, tiny.token_set(made, tiny.rows(5)))
    rows: list[dict[str, Any]] = [
        {"id": row["id"], "input": row["input"][:40], "label": "zebrafish rash"} for row in tiny.rows(ROWS)
    ]
    rows[50] = {"id": "bad", "text": "zebrafish"}
    data = {"train": str(tiny.write_jsonl(made / "train.jsonl", rows)), "max_rejects": 0.1}
    generation = {"max_new_tokens": 4, "num_beams": 1}
    tree = {"run": {"name": "pairs"}, "model": {"name": str(made / "base")}, "data": data}
    (made / "pairs.yaml").write_text(yaml.safe_dump(tree | {"eval": {"generation": generation}}))
    return made


def words(folder: Path, *more: str) -> list[str]:
    model = ("--from-model", str(folder / "export"), "--samples", "3", "--part-rows", "32")
    return ["data", "pairs", str(folder / "pairs.yaml"), "--to", "pairs.jsonl", *model, *more]


def rows(name: str = "pairs.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_a_model_gives_pairs_and_a_killed_command_keeps_its_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, made = job.predict_part, list[int]()

    def failing(engine: Any, asked: Any, number: int, part: Any) -> Any:
        if len(made) == 1:
            raise RunFailedError("killed")
        made.append(number)
        return whole(engine, asked, number, part)

    monkeypatch.setattr(job, "predict_part", failing)
    assert main(words(folder)) == 1
    assert not Path("pairs.jsonl").exists()
    made.clear()

    def counting(engine: Any, asked: Any, number: int, part: Any) -> Any:
        made.append(number)
        return whole(engine, asked, number, part)

    monkeypatch.setattr(job, "predict_part", counting)
    assert main(words(folder, "--json")) == 0
    assert made == [1, 2], "the finished part is not sampled again"
    shown = capsys.readouterr()
    counts = json.loads(shown.out)
    assert (counts["records"], counts["bad_rows"], counts["pairs"]) == (ROWS - 1, 1, len(rows()))
    assert "zebrafish" not in shown.err
    first = rows()[0]
    assert {"model", "weights", "seed", "temperature", "metric", "score", "rank", "strategy"} <= set(first)
    record = parse(first, ColumnsConfig(), form="auto", source="pairs", number=1)
    assert isinstance(record, Preference)
    assert record.chosen == "zebrafish rash"
    samples = rows("pairs.jsonl.samples/predictions.jsonl")
    assert [line["id"] for line in samples[:3]] == [f"{first['group']}#{n}" for n in range(3)]
    assert len({line["prediction"] for line in samples[:3]}) > 1, "each sample is drawn on its own"
    assert first["rejected"] in [line["prediction"] for line in samples[:3]]

    made.clear()
    other = words(folder, "--metric", "exact_match", "--rank", "2", "--force")
    assert main(other) == 0
    assert made == [], "another metric and rank need no new samples"
    assert {row["metric"] for row in rows()} == {"exact_match"}
    assert main(words(folder, "--force", "--seed", "4")) == 2
    assert "decoding.seed was 0, and is now 4" in capsys.readouterr().err
    assert main(words(folder, "--force", "--seed", "4", "--resample")) == 0
    assert made == [0, 1, 2]


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (["--samples", "0"], "--samples"),
        (["--rank", "4"], "--rank"),
        (["--temperature", "0"], "--temperature"),
        (["--metric", "length"], "--metric"),
        (["--strategy", "drop"], "--strategy"),
        (["--to", "/dev/null"], "--to"),
    ],
)
def test_options_that_do_not_fit_are_named(
    folder: Path, more: list[str], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, *more)) == 2
    assert capsys.readouterr().err.startswith(f"medray: {key}")


def test_options_of_sampling_need_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "pairs", str(folder / "pairs.yaml"), "--to", "p.jsonl", "--rank", "2"]) == 2
    assert "add --from-model" in capsys.readouterr().err
