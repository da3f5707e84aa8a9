"""The file console.log holds whole lines, in a folder and in a bucket, and none of a start that was refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from s3_server import s3_server

from medray import storage
from medray.report import run_log
from medray.report.console import Console
from medray.report.run_log import Consoles, RunLog


def test_lines_are_buffered_until_the_run_folder_is_claimed_and_has_a_config(tmp_path: Path) -> None:
    log, file = RunLog(tmp_path), tmp_path / "console.log"
    both = Consoles(Console(log, interactive=False), Console(log, interactive=False))
    both.phase("start", "one")
    assert not file.exists()
    log.begin()
    both.phase("data", "two")
    assert not file.exists(), "a start that is refused leaves nothing"
    (tmp_path / "config.yaml").touch()
    both.phase("model", "three")
    assert [line.split()[-1] for line in file.read_text().splitlines()] == ["one"] * 2 + ["two"] * 2 + [
        "three"
    ] * 2
    assert file.stat().st_mode & 0o077 == 0
    log.close()
    later = RunLog(tmp_path, command="medray train notes.yaml")
    later.begin()
    later.write("of a later start\n")
    assert len(file.read_text().splitlines()) == 8
    assert re.fullmatch(
        r"=== [-\d]{10} [:\d]{8} UTC  medray train notes.yaml", file.read_text().splitlines()[6]
    )


def test_another_file_can_mark_a_folder_that_is_claimed(tmp_path: Path) -> None:
    log = RunLog(tmp_path, mark="manifest.json")
    log.begin()
    (tmp_path / "config.yaml").touch()
    log.write("one\n")
    assert not (tmp_path / "console.log").exists()
    (tmp_path / "manifest.json").touch()
    log.write("two\n")
    assert (tmp_path / "console.log").read_text() == "one\ntwo\n"


def test_a_log_that_grows_large_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "LARGEST", 100)
    (tmp_path / "config.yaml").touch()
    log = RunLog(tmp_path)
    log.begin()
    for number in range(6):
        log.write(f"{number} {'x' * 38}\n")
    assert [line[0] for line in (tmp_path / "console.log.1").read_text().splitlines()] == ["0", "1", "2"]
    assert [line[0] for line in (tmp_path / "console.log").read_text().splitlines()] == ["3", "4", "5"]


def test_a_log_that_cannot_be_written_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "elsewhere").write_text("mine\n")
    (tmp_path / "console.log").symlink_to(tmp_path / "elsewhere")
    log = RunLog(tmp_path)
    log.begin()
    log.write("a line\n")
    assert (tmp_path / "elsewhere").read_text() == "mine\n", "no link is followed"


def test_in_a_bucket_the_newest_part_is_uploaded_and_lines_of_earlier_starts_stay(tmp_path: Path) -> None:
    with s3_server(tmp_path, "bucket"):
        folder = storage.at("s3://bucket/runs/a")
        storage.write(folder / "config.yaml", "x")
        for text in ("first\n", "second\n"):
            log = RunLog(folder, bucket_seconds=0.05)
            log.begin()
            log.write(text)
            log.close()
        assert (folder / "console.log").read_text() == "first\nsecond\n"
