"""Decompression of data files, with a clear message if a file is incomplete or damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import Any

from medray.errors import InputError

_READ_AHEAD = 1 << 20
# Text compresses to a third or a tenth, repetitive JSON to a hundredth. After the first bytes, no corpus reaches this.
MOST_RATIO, ALWAYS_UNPACKED = 250, 64 << 20

_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0")  # first bytes of gz, zst, bz2 and xz


def opened(stream: io.BufferedReader, compression: str, name: str) -> io.BufferedReader:
    """Return the decompressed content of `stream` as a stream that cannot seek. compression: gz, zst, bz2 or xz.

    Reading raises InputError if the file ends too early or is damaged.
    """
    return io.BufferedReader(_Inside(_open(stream, compression), stream, name), _READ_AHEAD)


def _open(stream: io.BufferedReader, compression: str) -> Any:
    if compression == "gz":
        return gzip.GzipFile(fileobj=stream)
    if compression == "bz2":
        return bz2.BZ2File(stream)
    if compression == "xz":
        return lzma.LZMAFile(stream)
    import pyarrow

    return pyarrow.input_stream(stream, compression="zstd")


class _Inside(io.RawIOBase):
    def __init__(self, inside: Any, packed: io.BufferedReader, name: str) -> None:
        self._inside, self._packed, self._name, self._given = inside, packed, name, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inside.read(len(buffer))
        except (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            short = isinstance(error, EOFError) or "Truncated" in str(error)
            what = "the compressed file " + ("ends too early" if short else "is damaged")
            raise InputError(
                f"{what}: only the first {self._given} bytes of its content can be read"
                if self._given
                else what,
                file=self._name,
                fix="copy it again",
            ) from None
        if not self._given and data.startswith(_PACKED):
            raise InputError("the file is compressed twice", file=self._name, fix="unpack the file once")
        buffer[: len(data)] = data
        self._given += len(data)
        if self._given > ALWAYS_UNPACKED and self._given > MOST_RATIO * self._packed.tell():
            raise InputError(
                f"the file unpacks to more than {MOST_RATIO} times its size ({self._given >> 20:,} MB so far), which no text does",
                file=self._name,
                fix="unpack the file, check its content, and use the unpacked file, which may have any size",
            )
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inside.close()
        super().close()
