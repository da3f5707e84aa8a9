"""The hash inside a token shard's file, and the handling of a shard whose content does not match it.

The hash is between the last page and the footer of the Parquet file, where no Parquet reader looks:

    PAR1 | pages | mark, SHA-256 of everything else | footer | length of the footer | PAR1

Checksums of pages would not be enough: they cover neither page headers nor the footer, and a flipped bit there can
change how intact pages are read.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

from medray import storage
from medray.errors import InputError, RunFailedError
from medray.storage import StoragePath

MANIFEST, FAILED = "manifest.json", "failed.json"
LARGEST_SHARD = 16 << 30  # bytes
_MARK = b"medray sha256\0\0\0"
_SEAL, _TAIL = len(_MARK) + hashlib.sha256().digest_size, 8


class DamagedShardError(RunFailedError):
    """The error for a damaged token shard.

    The shard has been set aside (renamed), and the next start writes it again.
    """


def sealed(data: bytes) -> bytes:
    """Return the bytes of a Parquet file with their hash added."""
    footer = _footer(data)
    return data[:footer] + _MARK + hashlib.sha256(data).digest() + data[footer:]


def read_sealed(path: StoragePath) -> bytes:
    """Return the bytes of a shard. If they do not match their hash, set the shard aside and raise DamagedShardError.

    A shard of an earlier version has no hash and counts as damaged, because writing it again is safer. Raises OSError
    if storage cannot be read, which says nothing about the shard.
    """
    try:
        data = storage.read_bounded(path, LARGEST_SHARD)
    except InputError:
        data = b""
    if _is_sound(data):
        return data
    set_aside(path)
    said = (
        f"the token shard {path} is damaged or was written by an earlier version; it was renamed to "
        f"{_aside(path).name}. Fix: run the same command again, which makes the shard again from the data"
    )
    with suppress(
        OSError
    ):  # tell processes that wait for the shard, because this run does not write it again
        storage.write(path.parent / FAILED, json.dumps({"reason": said}))
    raise DamagedShardError(said)


def is_sound(path: StoragePath) -> bool:
    """Return whether a shard exists and is undamaged. A damaged shard is set aside."""
    try:
        if _is_sound(storage.read_bounded(path, LARGEST_SHARD)):
            return True
    except FileNotFoundError:
        return False
    except InputError:
        pass
    set_aside(path)
    return False


def set_aside(path: StoragePath) -> None:
    """Rename a damaged shard and remove the manifest of its split, so that the next start writes the shard again."""
    with suppress(OSError):
        (path.parent / MANIFEST).unlink(missing_ok=True)
    with suppress(OSError):
        storage.move(path, _aside(path))


def _aside(path: StoragePath) -> StoragePath:
    return path.with_name(f"{path.name}.damaged")


def _is_sound(data: bytes) -> bool:
    footer = _footer(data)
    seal = footer - _SEAL
    if seal < 0 or data[seal : seal + len(_MARK)] != _MARK:
        return False
    view, digest = memoryview(data), hashlib.sha256()
    digest.update(view[:seal])
    digest.update(view[footer:])
    return digest.digest() == data[seal + len(_MARK) : footer]


def _footer(data: bytes) -> int:
    """Return the start of the footer; negative if the file is shorter than it claims."""
    return len(data) - _TAIL - int.from_bytes(data[-_TAIL : -_TAIL // 2], "little")
