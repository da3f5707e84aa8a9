"""Part files are whole or missing, and a folder continues only the command that began it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medray.errors import InputError, RunFailedError
from medray.evaluate.prediction.manifest import Manifest, check_same
from medray.evaluate.prediction.part_files import Counts, merge, part_path, read_part, write_part
from medray.evaluate.prediction.rows import Part
from medray.evaluate.prediction.warnings import warnings


def written(folder: Path, sizes: tuple[int, ...]) -> list[dict[str, str]]:
    (folder / "parts").mkdir()
    lines = []
    for number, size in enumerate(sizes):
        part = [{"id": f"{number}-{row}", "prediction": f"fieber \u00e4 {row}"} for row in range(size)]
        write_part(folder, number, part, Counts(rows=size, tokens=size))
        lines += part
    return lines


def test_parts_are_merged_in_the_order_of_the_input(tmp_path: Path) -> None:
    lines = written(tmp_path, (3, 0, 2))
    file = merge(tmp_path, [3, 0, 2])
    assert [json.loads(line) for line in file.read_text().splitlines()] == lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "predictions.jsonl"]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "other count"])
def test_a_part_that_is_not_whole_is_made_again(damage: str, tmp_path: Path) -> None:
    written(tmp_path, (3,))
    path, rows = Path(str(part_path(tmp_path, 0))), 3
    found = read_part(tmp_path, 0, 3)
    assert found is not None
    assert found[1] == Counts(rows=3, tokens=3)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "changed":
        path.write_bytes(path.read_bytes().replace(b"0-1", b"0-9"))
    elif damage == "gone":
        path.unlink()
    else:
        rows = 4
    assert read_part(tmp_path, 0, rows) is None
    with pytest.raises(RunFailedError, match="run the same command again"):
        merge(tmp_path, [rows])
    assert not (tmp_path / "predictions.jsonl").exists()


def test_a_manifest_is_read_as_it_was_written_and_refused_when_damaged(tmp_path: Path) -> None:
    part = Part(source=0, position=17, first=3, raw_rows=5, rows=4)
    manifest = Manifest(facts={"model": ["a", 1]}, parts=(part, replace(part, source=1)), rejected=2)
    assert Manifest.read(tmp_path) is None
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert manifest.rows == 8
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace("17", "18"))
    with pytest.raises(InputError, match="SHA-256"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"model": "a", "decoding.temperature": 0.7}, r"decoding.temperature was 0.0, and is now 0.7"),
        ({"model": "b", "decoding.temperature": 0.0}, "model was 'a', and is now 'b'"),
        ({"model": "a"}, "decoding.temperature was 0.0, and is now not used"),
        ({"model": "a", "decoding.temperature": 0.0, "input 2": "c" * 64}, "input 2 was not used"),
    ],
)
def test_a_different_command_is_refused_by_the_name_of_what_differs(
    now: dict[str, object], said: str, tmp_path: Path
) -> None:
    before = {"model": "a", "decoding.temperature": 0.0}
    check_same(before, dict(before), tmp_path)
    with pytest.raises(InputError, match=said):
        check_same(before, now, tmp_path)


def test_a_collapsed_model_is_told_without_its_text(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"

    def told(texts: list[str], finish: str = "stop", **more: str) -> list[str]:
        lines = [{"id": n, "prediction": text, "finish": finish} | more for n, text in enumerate(texts)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return warnings(file)

    different = [f"rash {n}" for n in range(20)]
    assert told(different) == []
    [same] = told(["rash"] * 19 + ["fever"])
    assert "19 of 20 predictions are the same text" in same
    assert "rash" not in same
    assert told(["rash"] * 20, reference="rash") == [], "as in medray eval: this answer is wanted"
    assert "empty" in told([""] * 12 + ["a"] * 8)[0]
    assert "without an end token" in told(different, finish="length")[0]
    assert told(["rash"] * 4) == []
    assert "1 ids of the first 20 rows" in told(different, id="MRN 7")[0]
    assert "MRN" not in told(different, id="MRN 7")[0]
