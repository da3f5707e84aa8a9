"""Broken headers of untrusted weights are refused, in little time and memory."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medray.config.checks.safetensors_header import HeaderError, index_files, read_header


def file_of(folder: Path, header: Any, data: bytes = b"\0" * 8, *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return file


def tensor(dtype: str = "F32", shape: Any = (2,), begin: Any = 0, end: Any = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {
        "a": np.ones((2, 3), np.float16),
        "b": np.zeros((0, 4), np.int64),
        "c": np.array(1.5),
        "d": np.ones(3, np.bool_),
    }
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "x.safetensors")
    assert {name: (each.dtype, each.elements) for name, each in found.items()} == {
        "a": ("F16", 6),
        "b": ("I64", 0),
        "c": ("F64", 1),
        "d": ("BOOL", 3),
    }


HALF = tensor(shape=[1], end=4)
BROKEN: dict[str, tuple[Any, str]] = {
    "dtype": ({"a": tensor("F33")}, "lacks dtype, shape or offsets"),
    "dtype is a list": ({"a": tensor(["F32"])}, "lacks dtype, shape or offsets"),  # type: ignore[arg-type]
    "no place": ({"a": {"dtype": "F32", "shape": [2]}}, "lacks dtype, shape or offsets"),
    "three offsets": ({"a": tensor() | {"data_offsets": [0, 4, 8]}}, "lacks dtype, shape or offsets"),
    "no object": ({"a": 5}, "lacks dtype, shape or offsets"),
    "shape is text": ({"a": tensor(shape="2")}, "is not a whole number"),
    "negative": ({"a": tensor(shape=[-1, -2])}, "is not a whole number"),
    "fraction": ({"a": tensor(shape=[2.0])}, "is not a whole number"),
    "true": ({"a": tensor(shape=[2, True])}, "is not a whole number"),
    "begins before the file": ({"a": tensor(begin=-8, end=0)}, "is not a whole number"),
    "shape too large": ({"a": tensor(shape=[3])}, "does not fit its offsets"),
    "shape beyond all memory": ({"a": tensor(shape=[10**4000] * 2000)}, "does not fit its offsets"),
    "overlap": ({"a": HALF, "b": HALF}, "tensor 2 of 2 begins at byte 0, but the one before ends at 4"),
    "hole": (
        {"a": tensor(shape=[1], begin=4)},
        "tensor 1 of 1 begins at byte 4, but the one before ends at 0",
    ),
    "end before begin": ({"a": tensor(shape=[0], begin=8, end=8)}, "begins at byte 8"),
    "past the end": ({"a": tensor(shape=[2**60], end=2**62)}, "copy or download is incomplete"),
    "less than the file": ({"a": HALF}, "copy or download is incomplete"),
    "not JSON": (b"\xff{}", "not JSON of tensors"),
    "nested": (b"[" * 50_000, "not JSON of tensors"),
    "a number of a million digits": (b'{"a": ' + b"9" * 1_000_000 + b"}", "not JSON of tensors"),
    "a list": ([], "not JSON of tensors"),
}


@pytest.mark.parametrize(("header", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_header_is_refused_here_and_by_the_library(header: Any, says: str, tmp_path: Path) -> None:
    file = file_of(tmp_path, header)
    with pytest.raises(HeaderError, match=says):
        read_header(file)
    with pytest.raises(SafetensorError), safe_open(file, "numpy"):
        pass


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**11, 100_000_001, 200])
def test_a_claimed_length_beyond_the_file_is_not_allocated(length: int, tmp_path: Path) -> None:
    file = file_of(tmp_path, {"a": tensor()}, length=length)
    tracemalloc.start()
    try:
        with pytest.raises(HeaderError, match="not a safetensors file"):
            read_header(file)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_no_changed_bytes_are_accepted_that_the_library_refuses(tmp_path: Path) -> None:
    save_file({"ab": np.ones((2, 3), np.float32), "c": np.ones(4, np.int8)}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    file, taken, refused = tmp_path / "y.safetensors", 0, 0
    for seed in range(2000):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data) - 28)] = rng.choice(b'0123456789"[]{},:-.eFUI \0\xff')
        file.write_bytes(data)
        try:
            read_header(file)
        except HeaderError:
            refused += 1
            continue
        taken += 1
        with safe_open(file, "numpy") as opened:
            assert list(opened.keys()), f"seed {seed}"
    assert taken > 20
    assert refused > 500


@pytest.mark.parametrize(
    "names", [["../x.safetensors"], ["/etc/passwd"], ["a/b.safetensors"], ["a\n"], [".."], [5], []]
)
def test_an_index_names_files_of_its_own_folder_only(names: list[Any], tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {str(number): name for number, name in enumerate(names)}}))
    with pytest.raises(HeaderError, match="not an index of weights"):
        index_files(index)
