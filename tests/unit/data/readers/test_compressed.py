"""Compressed files give the same rows as plain ones, and a clear message if one is cut off or damaged."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from medray.data.readers import format_of, read
from medray.errors import InputError

ROWS = [{"id": str(number), "text": f"é {number} " * 20} for number in range(5000)]
JSONL = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue().to_pybytes())


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zst,
}
each_compression = pytest.mark.parametrize("ending", COMPRESS)


def written(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


@each_compression
@pytest.mark.parametrize(
    ("plain", "data"),
    [
        ("a.jsonl", JSONL),
        ("a.json", b"[" + JSONL.rstrip().replace(b"\n", b",\r\n") + b"]"),
        ("a.json", json.dumps({row["id"]: row for row in ROWS}).encode()),
        ("a.csv", b"id,text\n" + b"".join(f"{row['id']},{row['text']}\n".encode() for row in ROWS)),
    ],
    ids=["jsonl", "array", "by id", "csv"],
)
def test_rows_and_lines_are_those_of_the_plain_file(
    ending: str, plain: str, data: bytes, tmp_path: Path
) -> None:
    whole = list(read(written(tmp_path, plain, data), format_of(plain)))
    assert [found.row for found in whole] == ROWS
    packed = written(tmp_path, f"{plain}.{ending}", COMPRESS[ending](data))
    found = list(read(packed, format_of(packed)))
    assert [(each.line, each.row) for each in found] == [(each.line, each.row) for each in whole]
    assert (
        list(read(packed, format_of(packed), found[4000].position, found[4002].position)) == found[4000:4002]
    )


@each_compression
@pytest.mark.parametrize("keep", [10, 0.5, -1])
def test_a_file_that_is_cut_off_says_so(ending: str, keep: float, tmp_path: Path) -> None:
    data = COMPRESS[ending](JSONL)
    size = int(len(data) * keep) if isinstance(keep, float) else keep
    path = written(tmp_path, f"a.jsonl.{ending}", data[:size])
    rows = read(path, "jsonl")
    with pytest.raises(InputError) as caught:
        raise AssertionError(f"{len(list(rows))} rows of {len(ROWS)} as if that were all")
    message = str(caught.value)
    assert message.startswith(f"{path}: the compressed file ends too early")
    assert message.endswith("\n  Fix: copy it again")
    assert " 0 bytes" not in message


def test_a_file_that_ends_too_early_reports_how_much_can_be_read(tmp_path: Path) -> None:
    data = gzip.compress(JSONL * 40, 1)
    with pytest.raises(
        InputError, match=r"ends too early: only the first [1-9][0-9]* bytes of its content can be read"
    ):
        list(read(written(tmp_path, "a.jsonl.gz", data[:-20]), "jsonl"))
    tiny = gzip.compress(b'{"input": "a", "label": "b"}\n')
    with pytest.raises(InputError, match="the compressed file ends too early\n  Fix: copy it again"):
        list(read(written(tmp_path, "b.jsonl.gz", tiny[:-9]), "jsonl"))


@each_compression
def test_a_damaged_file_says_so(ending: str, tmp_path: Path) -> None:
    data = bytearray(COMPRESS[ending](JSONL))
    middle = len(data) // 2
    data[middle:-10] = b"\xff" * (len(data) - 10 - middle)
    with pytest.raises(InputError, match=r"the compressed file (is damaged|ends too early)"):
        list(read(written(tmp_path, f"a.jsonl.{ending}", bytes(data)), "jsonl"))


@each_compression
def test_a_file_that_is_not_compressed_says_so(ending: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the compressed file is"):
        list(read(written(tmp_path, f"a.jsonl.{ending}", JSONL), "jsonl"))


@each_compression
def test_a_file_that_is_compressed_twice_says_so(ending: str, tmp_path: Path) -> None:
    twice = COMPRESS["gz"](COMPRESS[ending](JSONL))
    with pytest.raises(InputError, match="the file is compressed twice\n  Fix: unpack the file once"):
        list(read(written(tmp_path, "dbl.gz", twice), "jsonl"))
    with pytest.raises(
        InputError, match="the endings of this file say that it is compressed twice\n  Fix: unpack it once"
    ):
        format_of(f"a.jsonl.{ending}.gz")


@each_compression
def test_a_compressed_empty_file_has_no_rows(ending: str, tmp_path: Path) -> None:
    assert list(read(written(tmp_path, f"a.jsonl.{ending}", COMPRESS[ending](b"")), "jsonl")) == []


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_concatenated_parts_are_one_file(ending: str, tmp_path: Path) -> None:
    data = COMPRESS[ending](JSONL) * 2
    assert [found.row for found in read(written(tmp_path, f"a.jsonl.{ending}", data), "jsonl")] == ROWS * 2


def test_the_other_formats_too(corpora: Path, tmp_path: Path) -> None:
    plain = corpora / "bc5cdr" / "CDR_TrainingSet.PubTator.txt"
    packed = written(tmp_path, "CDR.PubTator.txt.gz", gzip.compress(plain.read_bytes(), 1))
    assert list(read(packed, format_of(packed))) == list(read(str(plain), "pubtator"))
