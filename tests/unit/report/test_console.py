"""The console writes lines for a file and for a terminal. The tests set the clock."""

from __future__ import annotations

import io
from typing import Any

from medray.report.console import Console, duration, number, size


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def console(*, interactive: bool | None = None) -> tuple[Console, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return Console(stream, interactive=interactive, clock=clock), stream, clock


def step(number: int, **more: Any) -> dict[str, Any]:
    losses = {"loss": 2.5, "loss/label": 2.0, "loss/rationale": 3.0}
    return {"kind": "step", "index": number, "step": number, **losses, "tokens": 500, "seconds": 0.5, **more}


def test_a_file_gets_the_first_and_last_step_and_one_every_five_seconds() -> None:
    screen, stream, clock = console()
    screen.phase("training")
    for n in range(1, 101):
        clock.now += 0.5
        screen.show(step(n, **{"loss/rationale/Age": 9.0}), total_steps=100)  # one key of many: not shown
    text = stream.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    shown = [line for line in text.splitlines() if "] step " in line]
    assert [line.split("/100")[0].split()[-1] for line in shown] == [
        "1",
        "11",
        "21",
        "31",
        "41",
        "51",
        "61",
        "71",
        "81",
        "91",
        "100",
    ]
    assert "loss 2.5000 (label 2.0000, rationale 3.0000)  1,000 tokens/s  44 s left" in shown[1]
    assert "left" not in shown[-1]


def test_the_newest_step_is_written_before_the_next_phase() -> None:
    screen, stream, clock = console()
    screen.phase("training")
    for n in (1, 2, 3):
        clock.now += 0.1
        screen.show(step(n), total_steps=100)
    assert "3/100" not in stream.getvalue()
    screen.phase("export", "adapter")
    assert stream.getvalue().splitlines()[-2:] == [
        "[    0.3 s] step          3/100  loss 2.5000 (label 2.0000, rationale 3.0000)  1,000 tokens/s  48 s left",
        "[    0.3 s] export      adapter",
    ]


def test_phases_carry_the_time_since_the_start() -> None:
    screen, stream, clock = console()
    clock.now += 3.2
    screen.phase("data", "200 rows, 2 shards")
    assert stream.getvalue() == "[    3.2 s] data        200 rows, 2 shards\n"


def test_heartbeat_breaks_a_silence_of_twenty_seconds() -> None:
    screen, stream, clock = console()
    screen.phase("model")
    begun = len(stream.getvalue())
    said = []
    for _ in range(90):
        clock.now += 1
        screen.heartbeat()
        if len(stream.getvalue()) > begun:
            said.append(clock.now - 100)
            begun = len(stream.getvalue())
    assert said == [20, 40, 60, 80]
    assert "still model: 20 s" in stream.getvalue()
    assert "still model: 1 min 20 s" in stream.getvalue()


def test_other_records_have_a_line_each_and_unknown_kinds_show_no_content() -> None:
    screen, stream, _ = console()
    screen.show(
        {"kind": "evaluation", "step": 5, "metrics": {"rougeL": 0.123456, "rows": 200}}, total_steps=9
    )
    screen.show({"kind": "checkpoint", "step": 5, "bytes": 12_300_000, "seconds": 0.31}, total_steps=9)
    screen.show({"kind": "message", "text": "resumed after step 4"}, total_steps=9)
    screen.show({"kind": "phase", "name": "export", "detail": "merged"}, total_steps=9)
    screen.show({"kind": "novel", "payload": "text of a record"}, total_steps=9)
    assert [line.split("] ")[1] for line in stream.getvalue().splitlines()] == [
        "evaluation  step 5  rougeL 0.1235  rows 200",
        "checkpoint  step 5 saved (12.3 MB, 0.3 s)",
        "note        resumed after step 4",
        "export      merged",
        "novel",
    ]


def test_a_terminal_rewrites_one_line() -> None:
    screen, stream, clock = console(interactive=True)
    for n in (1, 2, 3):
        clock.now += 0.1
        screen.show(step(n), total_steps=3)
    assert stream.getvalue().count("\r") == 3
    assert "\n" not in stream.getvalue()
    screen.phase("export")
    assert "3/3" in stream.getvalue().split("\n")[0].rsplit("\r", 1)[1], "the last step stays on the screen"


def test_table_aligns_numbers_to_the_right() -> None:
    screen, stream, _ = console()
    screen.table("Lengths", [("label", "7"), ("rationale", "1,234")])
    assert stream.getvalue() == "Lengths\n  label          7\n  rationale  1,234\n"
    screen.table("Nothing", [])
    assert stream.getvalue().endswith("Nothing\n")


def test_a_closed_stream_does_not_end_the_run() -> None:
    screen, stream, _ = console()
    stream.close()
    screen.phase("data")
    screen.show(step(1), total_steps=1)


def test_units() -> None:
    assert [duration(s) for s in (0.04, 9.96, 59.4, 59.6, 725, 12_000)] == [
        "0.0 s", "10 s", "59 s", "1 min 00 s", "12 min 05 s", "3 h 20 min",
    ]  # fmt: skip
    assert [size(n) for n in (12, 1_500, 2_500_000, 3_400_000_000)] == [
        "12 bytes",
        "1.5 kB",
        "2.5 MB",
        "3.4 GB",
    ]
    assert [number(n) for n in (0.61234, 1234567, 2e-5, 0.0, float("nan"))] == [
        "0.6123",
        "1,234,567",
        "2.00e-05",
        "0",
        "nan",
    ]
