"""Predictions in the layouts of the reference systems, written next to `predictions.jsonl` from it, as a stream."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from medray import storage
from medray.evaluate.prediction.part_files import PREDICTIONS, write_whole
from medray.storage import StoragePath

Layout = Literal["generated", "sum"]
LAYOUTS: tuple[Layout, ...] = ("generated", "sum")
LINES, TABLE = "generated_predictions.txt", "generated_predictions_df.csv"
SUMMARIES, SUBMISSIONS = "summaries", "*_multiclinsum_*_run_*"
LONGEST_NAME = 120
_SECTION = re.compile(r"\s*section header:.*?section text:\s*(?P<text>.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeamName:
    """The parts of the folder name of a submission: `<team>_multiclinsum_<subtask>_run_<run_id>`."""

    team: str
    run_id: str
    subtask: str

    @property
    def folder(self) -> str:
        return "_".join((_plain(self.team), "multiclinsum", _plain(self.subtask), "run", _plain(self.run_id)))


def without_section_header(text: str) -> str:
    """Return Y of an answer of the form `Section header: X Section text: Y`; other answers as they are."""
    found = _SECTION.fullmatch(text)
    return text if found is None else found["text"].strip()


def write_layout(out: StoragePath, layout: Layout, name: TeamName | None = None) -> list[StoragePath]:
    """Write the predictions of a folder in one layout. Return the files, or the folder of the files.

    generated: one prediction per line with white space collapsed, and a table with the columns output (the reference)
    and prediction. sum: one file `<id>_sum.txt` per row, in a folder named by `name`, or `summaries`.
    """
    if layout == "generated":

        def lines(stream: IO[bytes]) -> None:
            for row in _rows(out):
                stream.write((" ".join(row["prediction"].split()) + "\n").encode())

        def table(stream: IO[bytes]) -> None:
            text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text)
            writer.writerow(("output", "prediction"))
            for row in _rows(out):
                writer.writerow((row.get("reference", ""), row["prediction"]))
            text.detach()

        return [write_whole(out / LINES, lines), write_whole(out / TABLE, table)]
    folder = out / (SUMMARIES if name is None else name.folder)
    if isinstance(folder, Path):
        folder.mkdir(exist_ok=True, mode=0o700)
    used: set[str] = set()
    for number, row in enumerate(_rows(out), 1):
        file = _plain(Path(str(row["id"])).name.removesuffix(".txt")) or f"row-{number}"
        while file in used:
            file = f"{file}-{number}"
        used.add(file)
        storage.write(folder / f"{file}_sum.txt", row["prediction"] + "\n")
    return [folder]


def remove_layouts(out: StoragePath) -> None:
    """Remove what `write_layout` wrote into a folder, because it is of other predictions."""
    for name in (LINES, TABLE):
        (out / name).unlink(missing_ok=True)
    for folder in (out / SUMMARIES, *out.glob(SUBMISSIONS)):
        storage.remove_tree(folder)


def _rows(out: StoragePath) -> Iterator[dict[str, Any]]:
    with storage.local(out / PREDICTIONS).open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def _plain(text: str) -> str:
    """Return a text as a part of a file name."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".-")[:LONGEST_NAME]
