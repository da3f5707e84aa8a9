"""Numbers of rows beside their token shards: written whole, found again, and never believed when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medray.data.shards.row_values import RowValues
from medray.data.shards.shard_file import shard_path
from medray.errors import RunFailedError

NAMES = ("label", "rejected")
VALUES = np.array([[-1.5, np.nan, -3.25], [-2.0, -1e-7, -900.0]], np.float32)


def test_what_is_written_is_found_by_another_reader(tmp_path: Path) -> None:
    values = RowValues(str(tmp_path), "one", NAMES)
    assert not values.has(4)
    values.write(4, VALUES)
    again = RowValues(str(tmp_path), "one", NAMES)
    assert again.has(4)
    np.testing.assert_array_equal(again.of(4), VALUES)
    assert again.of(4).dtype == np.float32
    assert not RowValues(str(tmp_path), "another", NAMES).has(4)


def test_a_damaged_file_counts_as_absent(tmp_path: Path) -> None:
    values = RowValues(str(tmp_path), "one", NAMES)
    values.write(0, VALUES)
    file = shard_path(tmp_path / "values" / "one", 0)
    data = bytearray(file.read_bytes())
    data[8] ^= 1
    file.write_bytes(bytes(data))
    assert not RowValues(str(tmp_path), "one", NAMES).has(0)


def test_what_is_gone_ends_the_run_with_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="run the same command again"):
        RowValues(str(tmp_path), "one", NAMES).of(0)


def test_old_shards_leave_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medray.data.shards.row_values._KEPT", 2)
    values = RowValues(str(tmp_path), "one", NAMES)
    for shard in range(3):
        values.write(shard, VALUES + shard)
    for shard in (0, 1, 2, 0):
        np.testing.assert_array_equal(values.of(shard), VALUES + shard)
