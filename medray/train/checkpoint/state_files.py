"""The state of a checkpoint on storage: one safetensors file per rank, and a reader of any slice across all files.

A tensor is named `kind/parameter`; the file's metadata holds the index of its first element within the parameter. Files are
written as a stream, hashed while they are written, and read by byte ranges: on local and remote storage, neither direction
needs a second copy in memory or on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from torch import Tensor

from medray import storage
from medray.errors import RunFailedError
from medray.storage import StoragePath
from medray.train.engine.state import EXTRA, KINDS, Slice, TrainState

_STARTS = "starts"
_WIDTH = 4  # bytes of a float32
_PIECE_BYTES = 16 << 20  # written and hashed per call

LONGEST_PAUSE_SECONDS = 15.0
T = TypeVar("T")


def snapshot(state: TrainState, rank: int, world_size: int) -> dict[str, tuple[int, Tensor]]:
    """Copy what this rank writes to host memory: {kind/parameter: (start, float32 [elements])}."""
    held = {
        f"{kind}/{part.name}": (part.start, part.get(kind).detach().to("cpu", torch.float32, copy=True))
        for part in _written(state, rank, world_size)
        for kind in KINDS
    }
    if state.extra and rank == 0:
        for name, one in state.extra.tensors().items():
            held[f"{EXTRA}/{name}"] = (0, one.detach().flatten().to("cpu", torch.float32, copy=True))
    return held


def _written(state: TrainState, rank: int, world_size: int) -> Iterable[Slice]:
    """Return the slices that this rank writes. Replicated parameters are written once, in about equal shares."""
    if not state.replicated:
        return [part for part in state.slices if part.stop > part.start]
    loads, mine = [0] * world_size, []
    for part in sorted(state.slices, key=lambda part: part.start - part.stop):
        owner = loads.index(min(loads))
        loads[owner] += part.stop - part.start
        if owner == rank:
            mine.append(part)
    return mine


def write(file: StoragePath, held: dict[str, tuple[int, Tensor]]) -> tuple[int, str]:
    """Write tensors to a file and return (bytes, sha256). Raises OSError if storage fails; the file is then incomplete.

    The format is safetensors (https://huggingface.co/docs/safetensors, "Format"): the length of a JSON header, the
    header, the tensors one after the other. The safetensors library writes local files only and computes no hash.
    """
    header: dict[str, Any] = {
        "__metadata__": {_STARTS: json.dumps({name: start for name, (start, _) in held.items()})}
    }
    end = 0
    for name, (_, values) in held.items():
        begin, end = end, end + values.numel() * _WIDTH
        header[name] = {"dtype": "F32", "shape": [values.numel()], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors must be aligned for readers that map them into memory
    digest, size = hashlib.sha256(), 0
    with _writing(file) as stream:
        for piece in _pieces(len(text).to_bytes(8, "little") + text, held):
            stream.write(piece)
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


@contextmanager
def _writing(file: StoragePath) -> Iterator[IO[bytes]]:
    with file.open("wb") as stream:
        yield stream
        if isinstance(file, Path):
            stream.flush()
            os.fsync(stream.fileno())


def _pieces(head: bytes, held: dict[str, tuple[int, Tensor]]) -> Iterator[memoryview]:
    yield memoryview(head)
    for _, values in held.values():
        whole = values.contiguous().numpy().data.cast("B")
        for begin in range(0, len(whole), _PIECE_BYTES):
            yield whole[begin : begin + _PIECE_BYTES]


def sha256(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := stream.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


class StateReader:
    """A reader of slices across the files of all ranks that wrote a checkpoint. As a context, it keeps the files open.

    It trusts the headers, because the files belong to the run and their hashes were checked.
    """

    def __init__(self, files: Sequence[StoragePath]) -> None:
        self._files = files
        self._pieces: dict[str, list[tuple[int, int, IO[bytes], int]]] = defaultdict(list)

    def __enter__(self) -> StateReader:
        self._open = ExitStack()
        for file in self._files:
            stream = self._open.enter_context(file.open("rb"))
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
            starts = json.loads(header.pop("__metadata__")[_STARTS])
            for name, entry in header.items():
                start, (elements,) = starts[name], entry["shape"]
                offset = 8 + length + entry["data_offsets"][0]
                self._pieces[name].append((start, start + elements, stream, offset))
        return self

    def __exit__(self, *reason: object) -> None:
        self._pieces.clear()
        self._open.close()

    def sizes(self, kind: str) -> dict[str, int]:
        """Return the number of elements of each parameter, by its name."""
        found = {}
        for key, pieces in self._pieces.items():
            each, _, name = key.partition("/")
            if each == kind:
                found[name] = max(piece[1] for piece in pieces)
        return found

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor:
        """Return elements start to stop, float32. Raises RunFailedError unless the files hold each of them once."""
        found = torch.empty(stop - start)
        filled, each_once = 0, True
        pieces = sorted(self._pieces.get(f"{kind}/{name}", ()), key=lambda piece: piece[:2])
        for begin, end, stream, offset in pieces:
            first, last = max(begin, start), min(end, stop)
            if first < last:
                each_once &= (
                    first == start + filled
                )  # `filled` alone misses an overlap as long as a gap elsewhere
                stream.seek(offset + (first - begin) * _WIDTH)
                data = bytearray(stream.read((last - first) * _WIDTH))
                found[first - start : last - start] = torch.frombuffer(data, dtype=torch.float32)
                filled += last - first
        if filled != stop - start or not each_once:
            raise RunFailedError(
                f"the checkpoint holds {filled} of {stop - start} values of {kind} {name}: it belongs to a different "
                "model or adapter. Fix: restore the model of the run, or start from the beginning with --overwrite"
            )
        return found


class Retries:
    """Retries of one operation within a time limit, which starts now.

    what: the failing operation, for messages. troubled: called once, with `what` and the system's error.
    """

    def __init__(self, seconds: float, what: str, troubled: Callable[[str], None]) -> None:
        self._until, self._what, self._troubled = time.monotonic() + seconds, what, troubled
        self._told, self._pause = False, 0.5

    def attempt(self, act: Callable[..., T], *arguments: Any) -> T:
        """Call `act` until it succeeds, and return its result. Raises TimeoutError with the last error at the limit."""
        while True:
            try:
                return act(*arguments)
            except OSError as error:
                reason = reason_of(error)
                if not self._told:
                    self._troubled(f"{self._what}, retrying: {reason}")
                    self._told = True
                self.pause(self._pause, reason)
                self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def pause(self, seconds: float, reason: str) -> None:
        if time.monotonic() > self._until:
            raise TimeoutError(reason)
        time.sleep(seconds)


def reason_of(error: BaseException) -> str:
    """Return an error as one line. A TimeoutError already contains a sentence."""
    if isinstance(error, TimeoutError):
        return str(error)
    return storage.summary(error) if isinstance(error, OSError) else str(error) or type(error).__name__
