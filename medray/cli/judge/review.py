"""The action `medray judge review`: step through the queue in the terminal."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from medray.errors import InputError, printable

if TYPE_CHECKING:
    from medray.evaluate.judge.rows import Row
    from medray.evaluate.judge.state import State

KEYS = {"c": "correct", "p": "partially_correct", "i": "incorrect"}
HELP = (
    "c correct, p partially correct, i incorrect (a note may follow), s skip, b back to the last one, q quit"
)


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "review",
        help="decide the disputed items in the terminal",
        description="Step through the items on which the judges differ, and decide them. Each decision is kept at once: quit at any "
        "time and continue later. Several people may review one queue at the same time.",
    )
    verb.add_argument("queue", help="folder of `medray judge`, or a queue file in it")
    verb.add_argument(
        "--blind", action="store_true", help="do not show what the judges said before you decide"
    )
    verb.add_argument("--json", action="store_true", help="print the report as one JSON object at the end")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.cli.judge.run import show
    from medray.evaluate.judge.queue_files import CSV, JSONL, finish, merge
    from medray.evaluate.judge.rows import read_rows
    from medray.evaluate.judge.state import State
    from medray.report.console import Console

    folder = Path(arguments.queue)
    if folder.name in (CSV, JSONL):
        folder = folder.parent
    rows = read_rows(folder)
    state = State(folder)
    if merged := merge(folder, state):
        print(f"{merged:,} verdicts taken from the queue files", file=sys.stderr)
    stream = sys.stderr if arguments.json else sys.stdout
    try:
        step_through(rows, state, sys.stdin, stream, blind=arguments.blind)
    finally:
        numbers = finish(folder, None, state)  # another start may have written new results meanwhile
    show(Console(stream), numbers, str(folder))
    if arguments.json:
        print(json.dumps(numbers))
    return 0


def step_through(rows: list[Row], state: State, source: TextIO, out: TextIO, *, blind: bool) -> int:
    """Ask for the verdict of each disputed item until all are decided, or the input ends, and return their number.

    Before an item is shown, decisions of other people are read, so that nobody decides what is decided already.
    """
    from medray.evaluate.judge.state import Decided

    waiting = [row for row in rows if row.state in ("disputed", "resolved")]
    position, decided, earlier = 0, 0, list[int]()
    reopened = None  # position of an item that is decided again
    while position < len(waiting):
        row = waiting[position]
        state.refresh()
        if position != reopened and (row.item.id, row.content) in state.decided:
            position += 1
            continue
        left = sum((each.item.id, each.content) not in state.decided for each in waiting)
        _show(row, out, left, blind=blind)
        word, _, note = _line(source, out).partition(" ")
        if word in ("", "q"):
            break
        if word == "b":
            if earlier:
                position = reopened = earlier.pop()
        elif word == "s":
            position += 1
        elif word in KEYS:
            state.refresh()
            others = state.decided.get((row.item.id, row.content))
            if position != reopened and others is not None:
                print(f"decided by someone else meanwhile: {others.human_verdict}; b changes it", file=out)
            else:
                state.add(
                    Decided(
                        item=row.item.id,
                        content=row.content,
                        human_verdict=KEYS[word],
                        note=note.strip(),
                        source="review",
                    )
                )
                decided += 1
            earlier.append(position)
            position, reopened = position + 1, None
        else:
            print(HELP, file=out)
    return decided


def _line(source: TextIO, out: TextIO) -> str:
    """Return the next line that is not empty, "" at the end of the input."""
    while True:
        print("c/p/i/s/b/q? ", end="", file=out, flush=True)
        try:
            line = source.readline()
        except UnicodeDecodeError:
            raise InputError("is not UTF-8 text", key="standard input", fix="use a UTF-8 terminal") from None
        if not line or line.strip():
            return line.strip()


def _show(row: Row, out: TextIO, left: int, *, blind: bool) -> None:
    print(f"\n--- {printable(row.item.id)} ({left:,} to decide)", file=out)
    parts = [("task", row.item.input), ("answer", row.item.answer), ("right answer", row.item.gold)]
    for name, text in parts:
        if text is not None:
            print(f"{name}:", *_lines(text), sep="\n  ", file=out)
    for judge in () if blind else row.judges:
        reason = f": {row.reasons[judge]}" if row.reasons[judge] else ""
        print(f"{judge}:", *_lines(f"{row.verdicts[judge] or 'unreadable'}{reason}"), sep="\n  ", file=out)


def _lines(text: str) -> list[str]:
    """Return the lines of a text without characters that a terminal obeys."""
    return [printable(line.replace("\t", " ")) for line in text.splitlines()] or [""]
