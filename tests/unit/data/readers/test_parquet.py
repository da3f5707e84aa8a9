"""The Parquet reader gives rows as JSON values, and a clear message for an incomplete file."""

from __future__ import annotations

import gzip
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from medray.data.readers import read
from medray.data.records import BadRowError
from medray.errors import InputError


def written(folder: Path, columns: dict[str, Any]) -> str:
    parquet.write_table(pa.table(columns), folder / "rows.parquet")
    return str(folder / "rows.parquet")


def test_values_are_those_of_json(tmp_path: Path) -> None:
    columns = {
        "text": ["é", None],
        "number": [1, 2],
        "list": [["a", "b"], []],
        "facts": [{"fever": "yes"}, {"fever": None}],
        "day": [date(2020, 1, 2), None],
        "times": [[datetime(2020, 1, 2, 3, 4)], []],
        "dose": [Decimal("0.10"), Decimal("2.00")],
        "kind": pa.array(["x", "y"]).dictionary_encode(),
    }
    first, second = (found.row for found in read(written(tmp_path, columns), "parquet"))
    assert first == {
        "text": "é",
        "number": 1,
        "list": ["a", "b"],
        "facts": {"fever": "yes"},
        "day": "2020-01-02",
        "times": ["2020-01-02T03:04:00"],
        "dose": "0.10",
        "kind": "x",
    }
    assert isinstance(second, dict)
    assert (second["text"], second["day"], second["times"]) == (None, None, [])


def test_a_row_with_bytes_is_a_bad_row(tmp_path: Path) -> None:
    columns = {"text": ["a", "b"], "image": [{"bytes": b"SECRET"}, {"bytes": None}]}
    first, second = (found.row for found in read(written(tmp_path, columns), "parquet"))
    assert isinstance(first, BadRowError)
    assert str(first) == "column 'image' holds bytes, which is not a JSON type"
    assert second == {"text": "b", "image": {"bytes": None}}


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_file_that_is_cut_off_is_named(keep: float, tmp_path: Path) -> None:
    path = Path(written(tmp_path, {"a": ["text"] * 1000}))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(
        InputError, match=r"rows\.parquet: this is not a complete Parquet file.*\n.*copy it again"
    ):
        list(read(str(path), "parquet"))


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = Path(written(tmp_path, {"a": [f"text {number}" for number in range(5000)]}))
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged after row 0"):
        list(read(str(path), "parquet"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["1"]), pa.array(["2"])], names=["a", "a"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="two columns of the file have the same name"):
        list(read(str(tmp_path / "rows.parquet"), "parquet"))


def test_a_compressed_parquet_file_is_refused(tmp_path: Path) -> None:
    path = Path(written(tmp_path, {"a": ["text"]}))
    again = tmp_path / "rows.parquet.gz"
    again.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="unpack the file"):
        list(read(str(again), "parquet"))
