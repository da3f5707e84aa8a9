"""`medray report`: the page of a run in any state, the comparison of several runs, and what is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from html_page import Page

from medray.cli.main import main
from medray.config import Config, dump
from medray.data.shards.seal import MANIFEST
from medray.errors import InputError
from medray.storage.json_files import write_sealed
from medray.train.run_folder import record
from medray.train.run_folder.record import read_record

TASK = {
    "rows": 20,
    "tokens": 4321,
    "loss_tokens": 40,
    "p50": 7.0,
    "p90": 9.0,
    "p99": 11.0,
    "max": 12,
    "truncated": 1,
}
SPLIT = {"rows": 20, "rejected": 0, "duplicates": 0, "repeated_ids": 0, "shards": 1, "dropped": {}, "tasks": {"label": TASK}}  # fmt: skip


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in records)


def make_run(
    storage: Path,
    name: str,
    *,
    loss: float = 1.0,
    rouge: float = 40.0,
    status: str | None = "done",
    tree: dict[str, Any] | None = None,
    **summary: Any,
) -> Path:
    """Write the folder of a run of four steps that was started again after step 2. status: None for a killed run."""
    sections: dict[str, Any] = {"run": {"storage": str(storage), "name": name}}
    for section, values in (tree or {}).items():
        sections[section] = {**sections.get(section, {}), **values}
    folder = storage / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(Config.model_validate(sections)))
    steps = [
        {"step": step, "loss": loss + 4 - step, "seconds": 0.5, "tokens": 100, "lr": 1e-4}
        for step in range(1, 5)
    ]
    (folder / "steps.jsonl").write_text(lines(*steps))
    evaluations = [
        {"step": 0, "metrics": {"loss": 5.0, "rougeL": 1.0}},
        {"step": 4, "metrics": {"loss": loss, "rougeL": rouge}},
    ]
    (folder / "evals.jsonl").write_text(lines(*evaluations))
    (folder / "attempts.jsonl").write_text(lines({"resumed_step": 0}, {"resumed_step": 2}))
    if status is not None:
        before, after = (each["metrics"] for each in evaluations)
        values = {"name": name, "status": status, "steps": 4, "tokens": 400, "train_loss_last": loss}
        values |= {"eval": {"before": before, "after": after}} | summary
        (folder / "summary.json").write_text(json.dumps(values))
    return folder


def said(words: list[Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run the verb with --json and return the object."""
    assert main(["report", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(words: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the verb, check that it refuses with a fix, and return the message."""
    assert main(["report", *map(str, words)]) == 2
    message = capsys.readouterr().err
    assert "Fix: " in message
    return message


@pytest.mark.parametrize("status", ["done", "stopped", "failed", None])
def test_the_page_of_one_run_in_any_state(
    status: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason: dict[str, Any] = {"reason": "the disk is full"} if status == "failed" else {}
    folder = make_run(tmp_path, "first", status=status, **reason)
    (folder / "report.html").write_text("an old page")
    found = said([folder], capsys)
    assert found["page"] == str(folder / "report.html")
    page = Page((folder / "report.html").read_text())
    assert page.open == []
    assert (status or "not running") in page.text
    assert ("the disk is full" in page.text) == (status == "failed")
    marks = [title for title in page.titles if "started again" in title]
    assert marks == ["started again after step 2"]
    (run,) = found["runs"]
    assert run["status"] == (status or "not running")
    assert (run["steps"], run["tokens"], run["seconds"], run["restarts"]) == (4, 400, 2.0, 1)
    assert (run["train_loss_last"], run["after"]["rougeL"]) == (1.0, 40.0)


def test_a_stale_summary_does_not_hide_later_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, "first", status="stopped")
    tree = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(tree | {"steps": 2, "tokens": 200}))
    (run,) = said([folder], capsys)["runs"]
    assert (run["status"], run["steps"], run["tokens"]) == ("not running", 4, 400)


def test_the_page_shows_the_data_while_its_shards_exist(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "first")
    split = tmp_path / "tokens" / "abc" / "train"
    split.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps({"tokens": f"/moved/tokens/{split.parent.name}/train"}))
    write_sealed(split / MANIFEST, SPLIT)
    assert main(["report", str(folder)]) == 0
    assert "train: tokens of label4,321" in Page((folder / "report.html").read_text()).text


@pytest.mark.parametrize("show_text", [True, False])
def test_text_of_records_is_shown_only_if_the_run_was_allowed_to(tmp_path: Path, show_text: bool) -> None:
    folder = make_run(tmp_path, "first", tree={"tracking": {"show_text": show_text}})
    answer = {"prompt": "a cough", "reference": "a cold", "prediction": "the flu"}
    (folder / "predictions.jsonl").write_text(lines({"id": "1", **answer}, {"id": "2", "prediction": "x"}))
    assert main(["report", str(folder)]) == 0
    text = Page((folder / "report.html").read_text()).text
    assert [value in text for value in answer.values()] == [show_text] * 3


def test_a_comparison_marks_the_best_and_lists_keys_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    warned = [{"name": "empty_predictions", "text": "4 of 4 predictions are empty"}]
    make_run(tmp_path / "runs", "a", loss=1.0, rouge=40.0, tree={"peft": {"type": "lora", "rank": 4}})
    make_run(
        tmp_path / "runs", "b", loss=0.5, rouge=30.0, tree={"peft": {"type": "lora", "rank": 8}}, warnings=warned
    )  # fmt: skip
    make_run(tmp_path / "runs", "c", loss=2.0, rouge=40.0, status=None, tree={"peft": {"type": "lora"}})
    found = said(["runs/*"], capsys)
    assert found["page"] == "compare.html"
    assert [run["label"] for run in found["runs"]] == ["a", "b", "c"]
    assert [run["status"] for run in found["runs"]] == ["done", "done", "not running"]
    assert found["best"] == {"training loss": ["b"], "loss": ["b"], "rougeL": ["a", "c"]}
    default = str(Config().peft.rank)
    assert found["differences"] == {"peft.rank": {"a": "4", "b": "8", "c": default}}
    html = (tmp_path / "compare.html").read_text()
    page = Page(html)
    assert page.open == []
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script", html)
    assert "style-src 'sha256-" in html
    assert page.text.count("★") == 4 + 1  # and the hint
    assert "b: 4 of 4 predictions are empty" in page.text
    assert "peft.rank48" in page.text
    assert "train.epochs" not in page.text, "equal keys are hidden"
    assert page.headings == ["Check these models before you use them", "Runs", "Training loss", "Evaluations", "Keys that differ"]  # fmt: skip
    drawn = [title for title in page.titles if title in ("a", "b", "c")]
    assert drawn == ["a", "b", "c"] * 3, "a line of each run in the charts of the loss and of two metrics"


def test_secrets_and_free_text_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path, name) for name in "ab"]
    for number, run in enumerate(runs):
        text = (run / "config.yaml").read_text()
        changed = text.replace("prompts:\n    label: null", f"prompts:\n    label: a cough {number}")
        changed = re.sub(r"uri: .*", f"uri: http://user:hunter{number}@host/path?sig=abc", changed)
        assert changed.count("hunter") == 1
        assert changed.count("a cough") == 1
        (run / "config.yaml").write_text(changed)
    target = tmp_path / "page.html"
    found = said([*runs, "--to", target], capsys)
    assert found["differences"]["data.prompts.label"] == {"a": "(text)", "b": "(text)"}
    assert found["differences"]["tracking.uri"]["a"] == "http://***@host/path?***"
    assert not re.search("hunter|a cough|sig=", target.read_text() + json.dumps(found))


def test_an_entry_that_some_runs_lack_is_one_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "/data/" + "x" * 100
    trees: tuple[dict[str, Any], ...] = (
        {},
        {"data": {"validation": [f"{long}1"]}},
        {"data": {"validation": [f"{long}2"]}},
    )
    runs = [make_run(tmp_path, f"r{number}", tree=tree) for number, tree in enumerate(trees)]
    found = said([*runs, "--to", tmp_path / "page.html"], capsys)["differences"]
    assert sorted(found) == ["data.validation", "data.validation[0].path"]
    assert found["data.validation[0].path"] == {"r0": "none", "r1": f"{long}1", "r2": f"{long}2"}


def test_a_diverged_run_does_not_flatten_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path, name) for name in "ab"]
    broken = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 1e6}, {"step": 3, "loss": float("nan")}]
    (runs[1] / "steps.jsonl").write_text(lines(*broken))
    target = tmp_path / "page.html"
    found = said([*runs, "--to", target], capsys)
    assert found["runs"][1]["status"] == "done"
    text = Page(target.read_text()).text
    assert "Values above 16 are not drawn: b." in text
    assert "1M" not in text


def test_fifty_runs_have_fifty_different_lines(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"run-{number:02}", loss=1 + number / 50) for number in range(51)]
    target = tmp_path / "page.html"
    assert main(["report", *map(str, runs[:50]), "--to", str(target)]) == 0
    classes = re.findall(r'<svg class="swatch"[^>]*><line class="line ([^"]*)"', target.read_text())
    assert len(set(classes)) == len(classes) == 50
    assert main(["report", *map(str, runs), "--to", str(target), "--force"]) == 2


def test_an_existing_file_is_overwritten_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [make_run(tmp_path, name) for name in "ab"]
    Path("compare.html").write_text("mine")
    assert "compare.html: the file exists already" in refused(runs, capsys)
    assert "--to" in refused([runs[0], "--to", "compare.html"], capsys)
    assert Path("compare.html").read_text() == "mine"
    assert main(["report", *map(str, runs), "--force"]) == 0
    assert "2 runs compared" in Path("compare.html").read_text()


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / storage, "a") for storage in ("x", "y")]
    found = said([*runs, runs[0], "--to", tmp_path / "page.html"], capsys)
    assert [run["label"] for run in found["runs"]] == [str(run) for run in runs]
    assert "all arguments name the same run" in refused([runs[0], runs[0]], capsys)


def test_what_is_not_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = make_run(tmp_path, "search", search={})
    begun = make_run(tmp_path, "begun", status=None)
    for name in ("steps.jsonl", "evals.jsonl"):
        (begun / name).unlink()
    assert "there is no run in this folder" in refused([tmp_path / "gone"], capsys)
    assert "the folder of a search" in refused([search], capsys)
    assert "has recorded nothing yet" in refused([begun], capsys)
    assert "no folder of a run matches" in refused([tmp_path / "z*"], capsys)
    assert "a user name or a password" in refused(["s3://key:secret@bucket/run"], capsys)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "text": lambda path: path.write_text('"text"\n'),
    "lists": lambda path: path.write_text(
        json.dumps({"status": "stopped", **{key: ["x"] for key in ("steps", "step", "eval", "seconds", "loss", "versions")}})
        + "\n"
    ),
    "large": lambda path: path.write_bytes(b'{"status": "' + b"x" * 10_000_000 + b'"}\n'),
    "deep": lambda path: path.write_text('{"a": ' * 100_000),
    "no UTF-8": lambda path: path.write_bytes(b'{"status": "\xff\xfe"}\n'),
    "pipe": lambda path: os.mkfifo(path),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path.name),
    "huge summary": lambda path: path.write_text(
        json.dumps({"status": "stopped", "steps": 4, "seconds": {"total": float("inf"), "data": 1e308},
                    "train_loss_last": float("nan"), "tokens_per_second": float("inf"),
                    "eval": {"before": {"loss": 1e308, "a": float("-inf")}, "after": {"loss": -1e308, "a": float("inf")}}})
    ),
    "huge integer": lambda path: path.write_text(json.dumps({"status": "failed", "steps": 4, "eval": {"after": {"a": 10**400}}, "seconds": {"x": 10**400}})),
    "huge numbers": lambda path: path.write_text(
        lines(
            {"step": 1, "loss": 10**400, "seconds": 1e308, "lr": 1e-320},
            {"step": 2, "loss": 1e308, "seconds": 5e-324, "metrics": {"x": -(10**400), "loss": 1e308}},
            {"step": 3, "loss": 5e-324, "seconds": float("inf"), "metrics": {"x": 5e-324, "loss": 0}},
        )
    ),
}  # fmt: skip
FILES = (
    "config.yaml",
    "summary.json",
    "steps.jsonl",
    "evals.jsonl",
    "attempts.jsonl",
    "data.json",
    "predictions.jsonl",
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_gives_a_page_or_an_error_that_names_the_file(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FILES:
        folder = make_run(tmp_path / name, "first", tree={"tracking": {"show_text": True}})
        (folder / name).unlink(missing_ok=True)
        DAMAGE[damage](folder / name)
        code = main(["report", str(folder), "--to", str(tmp_path / f"{name}.html")])
        message = capsys.readouterr().err
        assert code == 0 or (code == 2 and name in message and "Fix: " in message), (name, message)
        assert len(message) < 1000
        assert code == 2 or name != "config.yaml"


def test_a_file_of_steps_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, "first")
    monkeypatch.setattr(record, "LARGEST_RECORDS", 10)
    with pytest.raises(InputError, match=r"steps\.jsonl: is larger than"):
        read_record(folder)
