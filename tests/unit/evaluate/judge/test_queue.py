"""Tests of the state and the queue: merging, stale files, damage, and several people at once."""

from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path

import pytest

from medray.cli.judge.review import step_through
from medray.errors import InputError
from medray.evaluate.judge.items import Item
from medray.evaluate.judge.queue_files import CSV, JSONL, finish
from medray.evaluate.judge.rows import Row, read_rows
from medray.evaluate.judge.state import FILE, Decided, Judged, State


def rows(count: int) -> list[Row]:
    found = []
    for number in range(count):
        item = Item(id=f"i{number}", input="=1+1", answer=f"Ärztin 🩺, \\times\n{number}", gold=None)
        found.append(
            Row(
                item=item,
                content=item.content,
                judges=("a", "b"),
                verdicts={"a": "correct", "b": "incorrect"},
                reasons={"a": "-2", "b": "'quoted'"},
            )
        )
    return found


def fill(folder: Path, verdicts: dict[str, str], *, separator: str = ",") -> None:
    """Fill the CSV file as a person with a spreadsheet does."""
    table = list(csv.DictReader(io.StringIO((folder / CSV).read_text(encoding="utf-8-sig"), newline="")))
    for each in table:
        each["human_verdict"] = verdicts.get(each["id"], each["human_verdict"])
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(table[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(table)
    (folder / CSV).write_text(stream.getvalue(), encoding="utf-8")


def fill_line(folder: Path, verdicts: dict[str, str]) -> None:
    table = [json.loads(line) for line in (folder / JSONL).read_text(encoding="utf-8").splitlines()]
    for each in table:
        each["human_verdict"] = verdicts.get(each["id"], each["human_verdict"])
    (folder / JSONL).write_text("".join(json.dumps(each) + "\n" for each in table), encoding="utf-8")


@pytest.mark.parametrize("separator", [",", ";"])
def test_filled_rows_are_merged_and_shown_in_both_files(tmp_path: Path, separator: str) -> None:
    assert finish(tmp_path, rows(4), State(tmp_path))["states"]["disputed"] == 4
    fill(tmp_path, {"i0": "Correct", "i1": "partially correct"}, separator=separator)
    fill_line(tmp_path, {"i2": "incorrect"})
    found = finish(tmp_path, rows(4), State(tmp_path))
    assert found["states"] == {"pending": 0, "agreed": 0, "disputed": 1, "resolved": 3}
    verdicts = {
        each["id"]: each["human_verdict"]
        for each in map(json.loads, (tmp_path / JSONL).read_text(encoding="utf-8").splitlines())
    }
    assert verdicts == {"i0": "correct", "i1": "partially_correct", "i2": "incorrect", "i3": ""}
    assert {row.item.id: row.human_verdict for row in read_rows(tmp_path)}["i1"] == "partially_correct"
    again = finish(tmp_path, rows(4), State(tmp_path))
    assert again == found
    assert len((tmp_path / FILE).read_text(encoding="utf-8").splitlines()) == 3


def test_texts_survive_and_are_no_formulas(tmp_path: Path) -> None:
    finish(tmp_path, rows(1), State(tmp_path))
    [one] = csv.DictReader(io.StringIO((tmp_path / CSV).read_text(encoding="utf-8-sig"), newline=""))
    assert one["input"] == "'=1+1"
    assert one["answer"] == "Ärztin 🩺, \\times\n0"
    assert [row.item for row in read_rows(tmp_path)] == [row.item for row in rows(1)]


def test_an_old_or_removed_queue_file_loses_nothing(tmp_path: Path) -> None:
    finish(tmp_path, rows(2), State(tmp_path))
    old = (tmp_path / CSV).read_bytes()
    fill(tmp_path, {"i0": "correct"})
    finish(tmp_path, rows(2), State(tmp_path))
    (tmp_path / CSV).write_bytes(old)
    (tmp_path / JSONL).unlink()
    assert finish(tmp_path, rows(2), State(tmp_path))["states"]["resolved"] == 1


def test_a_cell_that_nobody_touched_does_not_replace_a_later_decision(tmp_path: Path) -> None:
    """One person corrects a decision in the terminal, after another one's start has written it into the files."""
    state = State(tmp_path)
    finish(tmp_path, rows(2), state)

    def decide(verdict: str) -> None:
        item = rows(1)[0].item
        state.add(Decided(item=item.id, content=item.content, human_verdict=verdict, source="review"))

    decide("correct")
    finish(tmp_path, None, State(tmp_path))
    decide("incorrect")
    fill(tmp_path, {"i1": "correct"})  # in the same file
    finish(tmp_path, None, state)
    assert [row.human_verdict for row in read_rows(tmp_path)] == ["incorrect", "correct"]
    fill(tmp_path, {"i0": "correct"})
    finish(tmp_path, None, State(tmp_path))
    assert [row.human_verdict for row in read_rows(tmp_path)] == ["correct", "correct"]


def test_a_decision_about_other_texts_does_not_count(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.add(Decided(item="i0", content="of an older answer", human_verdict="correct"))
    assert finish(tmp_path, rows(1), state)["states"]["disputed"] == 1


@pytest.mark.parametrize(
    ("table", "lines", "what"),
    [
        ({"i0": "yes"}, {}, "queue.csv, row 2: human_verdict is no verdict"),
        ({}, {"i0": "5"}, "queue.jsonl, line 1: human_verdict is no verdict"),
        ({"i0": "correct"}, {"i0": "incorrect"}, "give different verdicts for one item"),
    ],
)
def test_a_wrong_cell_is_named_and_nothing_is_overwritten(
    tmp_path: Path, table: dict[str, str], lines: dict[str, str], what: str
) -> None:
    finish(tmp_path, rows(1), State(tmp_path))
    fill(tmp_path, table)
    fill_line(tmp_path, lines)
    before = (tmp_path / CSV).read_bytes()
    with pytest.raises(InputError, match=what):
        finish(tmp_path, rows(1), State(tmp_path))
    assert (tmp_path / CSV).read_bytes() == before


def test_a_line_that_was_cut_is_lost_alone(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.add(Judged(item="a", judge="x", asked="1", verdict="correct", cost=2.0))
    with open(tmp_path / FILE, "ab") as stream:
        stream.write(b'{"item": "b", "judge": "x", "asked"')
    again = State(tmp_path)
    assert list(again.judged) == [("a", "x")]
    again.add(Judged(item="c", judge="x", asked="1", verdict=None, cost=3.0))
    last = State(tmp_path)
    assert set(last.judged) == {("a", "x"), ("c", "x")}
    assert last.cost == 5.0


def test_a_foreign_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"text": "of something else"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="did not write"):
        State(tmp_path)


def test_many_writers_lose_no_line(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        state = State(tmp_path)
        for number in range(25):
            state.add(Judged(item=f"{writer}-{number}", judge="x", asked="1", verdict="correct"))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(State(tmp_path).judged) == 100


def review(folder: Path, keys: str, count: int = 3, *, blind: bool = False) -> tuple[int, str]:
    out = io.StringIO()
    done = step_through(rows(count), State(folder), io.StringIO("\n".join(keys.split("|"))), out, blind=blind)
    return done, out.getvalue()


def test_a_review_decides_skips_goes_back_and_continues(tmp_path: Path) -> None:
    done, shown = review(tmp_path, "c good|x|s|b|i wrong dose|q")
    assert "c correct, p partially correct" in shown
    assert done == 2  # i0 correct; i1 was skipped; back to i0: incorrect
    decided = State(tmp_path).decided
    assert {item: (one.human_verdict, one.note) for (item, _), one in decided.items()} == {
        "i0": ("incorrect", "wrong dose")
    }
    done, shown = review(tmp_path, "p|c")
    assert done == 2
    assert "i0 " not in shown
    assert finish(tmp_path, rows(3), State(tmp_path))["states"]["resolved"] == 3


def test_a_blind_review_hides_the_judges_and_escapes_are_not_obeyed(tmp_path: Path) -> None:
    _, shown = review(tmp_path, "q", blind=True)
    assert "a:" not in shown
    _, shown = review(tmp_path, "q")
    assert "a:\n  correct: -2" in shown
    assert "\\times" in shown
    item = Item(id="e", input="\x1b[2J", answer="a\u202eb")
    one = Row(
        item=item,
        content="c",
        judges=("a", "b"),
        verdicts={"a": None, "b": "correct"},
        reasons={"a": "", "b": ""},
    )
    out = io.StringIO()
    step_through([one], State(tmp_path), io.StringIO("q\n"), out, blind=False)
    assert "\x1b" not in out.getvalue()
    assert "\u202e" not in out.getvalue()


def test_two_people_at_once_decide_every_item_and_lose_nothing(tmp_path: Path) -> None:
    count, done = 30, []

    def person(key: str) -> None:
        found, _ = review(tmp_path, "|".join([key] * count), count)
        done.append(found)

    threads = [threading.Thread(target=person, args=(key,)) for key in "ci"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = State(tmp_path)
    assert len(state.decided) == count
    lines = (tmp_path / FILE).read_text(encoding="utf-8").splitlines()
    assert len(lines) == sum(done) >= count
    assert finish(tmp_path, rows(count), state)["states"]["resolved"] == count


def test_a_decision_of_someone_else_meanwhile_is_kept(tmp_path: Path) -> None:
    state, other = State(tmp_path), State(tmp_path)

    class Out(io.StringIO):
        def flush(self) -> None:  # the question is on the screen
            if not other.decided:
                one = rows(1)[0]
                other.add(Decided(item=one.item.id, content=one.content, human_verdict="incorrect"))

    out = Out()
    assert step_through(rows(1), state, io.StringIO("c\n"), out, blind=False) == 0
    assert "decided by someone else meanwhile: incorrect" in out.getvalue()
    assert [one.human_verdict for one in State(tmp_path).decided.values()] == ["incorrect"]
