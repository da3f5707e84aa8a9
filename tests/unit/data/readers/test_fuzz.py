"""A reader of a damaged file ends with rows, bad rows or an InputError, and its messages contain no text."""

from __future__ import annotations

import random
from pathlib import Path

import grids
import pytest
from damaged import FILES, changed

from medray.data.readers import read
from medray.data.records import BadRowError
from medray.errors import InputError

CHANGES = 2000
FEW = 500  # in `make test`; of .xz the first that still gives rows is the 400th


@pytest.mark.timeout(120)  # a reader that never ends fails
@pytest.mark.parametrize("changes", grids.first(1, [FEW, CHANGES]))
@pytest.mark.parametrize(("format", "ending", "data"), FILES.values(), ids=FILES.keys())
def test_no_change_of_bytes_breaks_a_reader(
    format: str, ending: str, data: bytes, changes: int, tmp_path: Path
) -> None:
    rng = random.Random(format + ending)
    file = tmp_path / f"rows{ending}"
    said: list[str] = []
    rows = 0
    for _ in range(changes):
        file.write_bytes(changed(data, rng))
        try:
            for found in read(str(file), format):
                assert found.line >= 1
                if isinstance(found.row, BadRowError):
                    said.append(str(found.row))
                else:
                    assert isinstance(found.row, dict)
                    rows += 1
        except InputError as error:
            said.append(str(error))
    assert rows > 0
    assert said
    assert not any("SECRET" in message for message in said)
