"""Steps lose nothing on a real disk that is full or read-only for a while, and a flush reports the truth."""

from __future__ import annotations

import json
from pathlib import Path

from small_disk import on_a_small_disk, record


def text(first: int, last: int) -> str:
    return "".join(json.dumps(record(step)) + "\n" for step in range(first, last + 1))


def test_steps_of_a_full_disk_are_written_when_there_is_room(tmp_path: Path) -> None:
    seen = on_a_small_disk(tmp_path, "full")
    assert seen["before"] is None
    assert seen["while"] == "steps.jsonl: No space left on device"
    assert text(1, 120).startswith(seen["then"])
    assert len(text(1, 20)) < len(seen["then"]) < len(text(1, 120)), "the disk was not full"
    assert seen["then"].endswith("\n"), "half a line stayed"
    assert seen["after"] is None
    assert seen["steps"] == text(1, 120)
    assert json.loads(seen["evals"]) == {"step": 60, "metrics": {"loss": 1.0}}
    assert sorted(seen["messages"]) == [
        "evals.jsonl cannot be written: No space left on device. Training continues and retries with each step; check the disk.",
        "evals.jsonl is writable again, and no record is missing",
        "steps.jsonl cannot be written: No space left on device. Training continues and retries with each step; check the disk.",
        "steps.jsonl is writable again, and no record is missing",
    ]


def test_a_ledger_that_starts_on_a_full_disk_repairs_the_file_later(tmp_path: Path) -> None:
    seen = on_a_small_disk(tmp_path, "torn")
    assert "No space left" in seen["while"]
    assert seen["steps"] == text(1, 121)
    assert seen["names"] == ["evals.jsonl", "steps.jsonl"] or seen["names"] == ["steps.jsonl"]


def test_a_restart_of_the_loop_on_a_full_disk_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    seen = on_a_small_disk(tmp_path, "resumed")
    assert seen["then"] == text(1, 10), "shortening a file needs no room"
    assert seen["after"] is None
    assert seen["steps"] == text(1, 145)


def test_after_a_read_only_disk_no_record_is_missing(tmp_path: Path) -> None:
    seen = on_a_small_disk(tmp_path, "read_only")
    assert seen["while"] == "steps.jsonl: Read-only file system"
    assert seen["after"] is None
    assert seen["steps"] == text(1, 16)


def test_the_end_of_a_run_reports_records_that_are_not_on_disk(tmp_path: Path) -> None:
    seen = on_a_small_disk(tmp_path, "closed")
    assert (
        seen["messages"][-1]
        == "steps.jsonl lacks the last 3 record(s), because the file cannot be written; check the disk"
    )
