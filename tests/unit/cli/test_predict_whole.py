"""The whole of `medray predict` in this process, with a stand-in for Ray: stops, resumption, order and bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from chat_server import OK, ChatState, Fault, chat_server
from exports import exported
from local_data import without_cluster

from medray.cli import main as command
from medray.cli.predict import work
from medray.evaluate.prediction import inputs, job


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with without_cluster(monkeypatch, tmp_path):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, and data with a bad row."""
    made = tmp_path_factory.mktemp("export")
    exported(made, tiny.token_set(made, tiny.rows(5)))
    rows: list[dict[str, Any]] = [
        {"id": row["id"], "input": row["input"][:40]} for row in tiny.rows(70, seed=5)
    ]
    rows[3] |= {"label": "rash"}
    rows[50] = {"id": "bad", "text": "zebrafish"}
    tiny.write_jsonl(made / "new.jsonl", rows)
    return made


def words(folder: Path, out: str, *more: str) -> list[str]:
    fixed = ["--part-rows", "32", "data.max_rejects=0.1", "eval.generation.max_new_tokens=4"]
    fixed.append("eval.generation.num_beams=1")
    return ["predict", str(folder / "export"), str(folder / "new.jsonl"), "--to", out, *fixed, *more]


def test_a_stopped_command_goes_on_and_gives_the_bytes_of_a_calm_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ("--temperature", "0.9", "--seed", "3", "--log-probability")
    assert command.main(words(folder, "calm", *drawn, "--json")) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert (summary["rows"], summary["rejected"]) == (69, 1)
    assert "zebrafish" not in shown.err
    assert sorted(path.name for path in (tmp_path / "calm").iterdir()) == [
        ".hashes",
        "console.log",
        "manifest.json",
        "predictions.jsonl",
        "rejects.jsonl",
        "summary.json",
    ]
    lines = [json.loads(line) for line in (tmp_path / "calm" / "predictions.jsonl").read_text().splitlines()]
    wanted = [row["id"] for row in tiny.rows(70, seed=5)]
    assert [line["id"] for line in lines] == wanted[:50] + wanted[51:]
    assert [line["id"] for line in lines if "reference" in line] == [wanted[3]]
    assert all(line["log_probability"] < 0 and line["tokens"] <= 4 for line in lines)

    whole = job.predict_part
    made: list[int] = []

    def stopping(engine: Any, asked: Any, number: int, part: Any) -> Any:
        if made and len(made) < 2:
            made.append(-1)
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("killed")
        made.append(number)
        return whole(engine, asked, number, part)

    monkeypatch.setattr(job, "predict_part", stopping)
    monkeypatch.setattr(work, "POLL_SECONDS", 0.01)
    code = command.main(words(folder, "cut", *drawn))
    assert code in (1, 75), "the job may fail before the driver has looked at the signal"
    assert sorted(path.name for path in (tmp_path / "cut" / "parts").iterdir()) == ["part-000000.jsonl"]
    assert not (tmp_path / "cut" / "predictions.jsonl").exists()
    made.clear()

    def counting(engine: Any, asked: Any, number: int, part: Any) -> Any:
        made.append(number)
        return whole(engine, asked, number, part)

    monkeypatch.setattr(job, "predict_part", counting)
    assert command.main(words(folder, "cut", *drawn)) == 0
    assert made == [1, 2], "the finished part is not made again"
    for name in ("predictions.jsonl", "rejects.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    made.clear()
    assert command.main(words(folder, "cut", *drawn)) == 0
    assert made == [], "finished predictions are not made again"
    capsys.readouterr()
    assert command.main(["logs", "cut"]) == 0
    log = capsys.readouterr().out
    assert log.count("UTC  medray predict") == 3, "one line for each start"
    assert "32 of 69 rows are done" in log
    assert "zebrafish" not in log


def test_a_part_that_fails_is_told_without_the_text_of_the_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*parts: Any) -> Any:
        raise ValueError("zebrafish")

    monkeypatch.setattr(job, "predict_part", fail)
    assert command.main(words(folder, "out")) == 1
    text = capsys.readouterr().err
    assert "ValueError" in text.split("medray: ")[-1]
    assert "zebrafish" not in text.split("medray: ")[-1]


def test_input_that_cannot_be_predicted_ends_with_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_jsonl(tmp_path / "other.jsonl", [{"text": "zebrafish", "summary": "b"}])
    assert command.main(["predict", str(folder / "export"), "other.jsonl", "--to", "out"]) == 2
    text = capsys.readouterr().err
    assert "data.columns.input" in text
    assert "summary, text" in text
    assert "zebrafish" not in text
    assert command.main(["predict", str(folder / "export"), str(folder / "new.jsonl"), "--to", "o2"]) == 2
    assert "1 of 70 rows are bad" in capsys.readouterr().err
    fine = ["predict", str(folder / "export"), "other.jsonl", "--to", "out", "data.columns.input=text"]
    assert command.main(fine) == 0
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 1


def test_compressed_files_are_read_through_a_plain_copy_that_is_removed(folder: Path, tmp_path: Path) -> None:
    import gzip

    (tmp_path / "new.jsonl.gz").write_bytes(gzip.compress((folder / "new.jsonl").read_bytes()))
    shutil.copy(folder / "new.jsonl", tmp_path / "new.jsonl")
    for name, out in (("new.jsonl", "plain"), ("new.jsonl.gz", "packed")):
        made = ["predict", str(folder / "export"), name, "--to", out, "data.max_rejects=0.1"]
        assert command.main([*made, "eval.generation.max_new_tokens=2"]) == 0
    plain, packed = (
        [
            json.loads(line)["prediction"]
            for line in (tmp_path / out / "predictions.jsonl").read_text().splitlines()
        ]
        for out in ("plain", "packed")
    )
    assert plain == packed
    assert not (tmp_path / "packed" / "converted").exists()


def test_an_input_that_changed_after_a_kill_before_the_manifest_is_converted_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    def pack(text: str) -> None:
        line = json.dumps({"id": text, "input": text}).encode() + b"\n"
        (tmp_path / "new.jsonl.gz").write_bytes(gzip.compress(line))

    def killed(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    made = [
        "predict",
        str(folder / "export"),
        "new.jsonl.gz",
        "--to",
        "out",
        "eval.generation.max_new_tokens=2",
    ]
    pack("before")
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "index_inputs", killed)
        assert command.main(made) == 130
    assert (tmp_path / "out" / "converted" / "000.jsonl").exists()
    pack("after")
    assert command.main(made) == 0
    assert json.loads((tmp_path / "out" / "predictions.jsonl").read_text())["id"] == "after"


def test_a_server_that_fails_stops_the_command_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ChatState()
    with chat_server(state) as url:
        limits = "{retries: 0, concurrency: 1, first_wait_seconds: 0.01}"
        (tmp_path / "server.yaml").write_text(f"base_url: {url}\nmodel: m\nlimits: {limits}\n")
        server = words(folder, "out", "--engine", "endpoint", "--backend", "server.yaml")
        state.fault_of = lambda body: Fault(status=503) if len(state.bodies) > 40 else OK
        assert command.main(server) == 1
        assert "run the same command again" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out" / "parts").iterdir()] == ["part-000000.jsonl"]
        state.fault_of = None
        assert command.main(server) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 69
    assert all(line["prediction"].startswith("echo predict:") for line in lines)
    assert state.bodies[0]["max_tokens"] == 4
