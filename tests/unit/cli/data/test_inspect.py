"""Tests of `medray data inspect` over finished shards: what it prints, writes and returns."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from medray.cli.data import inspect as data_inspect
from medray.errors import InputError


@pytest.fixture
def inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command with arguments; the shards are there, so that nothing is started."""
    made = [
        {"id": f"r{n}", "input": f"Zorblatt {n} hurts", "label": "yes" if n % 3 else "no"} for n in range(9)
    ]
    made = [row | {"rationale": "why"} for row in made]
    made[4]["input"] = "Negativet today"
    sets = {
        "train": tiny.token_set(tmp_path, made),
        "validation": tiny.token_set(tmp_path, made[:3], name="validation"),
    }
    monkeypatch.setattr(data_inspect, "_token_sets", lambda config, address: sets)
    source = tmp_path / "config.yaml"
    tiny.write_jsonl(tmp_path / "rows.jsonl", made)
    source.write_text(
        f"run: {{name: mine, storage: {tmp_path}}}\nmodel: {{name: null, init: random, preset: t5-tiny}}\n"
        "data: {train: rows.jsonl, tokenizer: train}\nmethod: {name: distill}\n"
    )

    def run(*words: str) -> int:
        top = argparse.ArgumentParser()
        data_inspect.add_to(top.add_subparsers())
        arguments = top.parse_args(["inspect", str(source), *words])
        return int(arguments.run(arguments))

    return run


def test_samples_and_numbers_go_to_the_terminal(inspect: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect("--rows", "2") == 0
    out = capsys.readouterr().out
    assert out.startswith("mine: what the model will see\n")
    assert len(re.findall(r"^  r\d of train$", out, re.MULTILINE)) == 2
    assert "⟦yes</s>⟧" in out or "⟦no</s>⟧" in out
    assert "Near-duplicates" not in out


def test_a_row_is_shown_by_its_id(inspect: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect("--id", "r2", "--split", "validation") == 0
    assert "r2 of validation" in capsys.readouterr().out
    with pytest.raises(InputError, match="no row of train or validation has this id"):
        inspect("--id", "r99")


def test_without_text_none_is_anywhere(
    inspect: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert inspect("--no-text", "--json", "--html", str(page)) == 0
    found = capsys.readouterr()
    for text in (found.out, found.err, page.read_text("utf-8")):
        assert "orblatt" not in text
        assert "Samples" not in text
    assert "class 1" in found.err
    assert "class 1" in page.read_text("utf-8")
    before = page.read_bytes()
    with pytest.raises(InputError, match=r"page\.html: --html: the file exists"):
        inspect("--html", str(page))
    assert page.read_bytes() == before
    assert inspect("--html", str(page), "--force") == 0
    assert page.read_bytes() != before


def test_json_is_one_object_without_text(inspect: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect("--json", "--near-duplicates", "--threshold", "0.9") == 0
    out = capsys.readouterr().out
    facts = json.loads(out)
    assert "orblatt" not in out
    assert facts["length"]["rows"] == 9
    assert facts["near_duplicates"]["threshold"] == 0.9
    assert facts["near_duplicates"]["across"] == 3


def test_a_problem_fails_only_where_that_is_asked_for(inspect: Any) -> None:
    assert inspect("--rows", "0") == 0
    assert inspect("--rows", "0", "--strict") == 1


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--rows", "-1"], "must not be negative"),
        (["--threshold", "0"], "greater than 0"),
        (["--threshold", "1.5"], "at most 1"),
        (["--id", "r1", "--no-text"], "forbids"),
        (["--html", "/nowhere/at/all.html"], "cannot write this file"),
        (["data.max_label_tokens=0"], "max_label_tokens"),
    ],
)
def test_what_is_wrong_is_said(inspect: Any, words: list[str], what: str) -> None:
    with pytest.raises(InputError, match=what):
        inspect(*words)


def test_colours_are_for_a_terminal_that_wants_them(
    inspect: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    inspect()
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    inspect()
    assert "\x1b[1;32m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    inspect()
    assert "\x1b" not in capsys.readouterr().out
