"""The checkpoint writer. It writes in the background: a training step only waits for a copy to host memory.

One thread per rank writes the rank's file, then a record of it. Rank 0's thread waits for the records of all ranks and
writes the manifest. If storage fails, a thread retries for `train.save_patience_minutes`; training continues meanwhile.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from threading import Thread
from typing import Any

import torch

from medray import storage
from medray.errors import RunFailedError
from medray.storage import StoragePath
from medray.train import checkpoint
from medray.train.checkpoint.state_files import Retries, reason_of, snapshot, write
from medray.train.engine import Engine
from medray.train.loop.step import Progress

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class WriterOptions:
    """The options of a writer.

    keep, best: see `checkpoint.retire`. patience_seconds: how long writing may fail before the run fails.
    """

    keep: int
    best: str | None
    patience_seconds: float


class CheckpointWriter:
    """The checkpoint writer of one rank. Its methods are collective: all ranks call them at the same steps.

    before_manifest: called on rank 0's thread before a manifest is written. If it raises OSError, it is retried.
    written: called on rank 0's thread after a manifest was written, with the step.
    troubled: called on each rank's thread when storage fails, once per checkpoint.
    """

    def __init__(
        self,
        root: StoragePath,
        engine: Engine,
        options: WriterOptions,
        *,
        before_manifest: Callable[[], None],
        written: Callable[[int], None],
        troubled: Callable[[str], None],
    ) -> None:
        self._root, self._engine, self._options = root, engine, options
        self._before_manifest, self._written, self._troubled = before_manifest, written, troubled
        # Random rather than the time: a clock may jump, and two starts must never write to the same folder.
        self._attempt = self._agree(secrets.randbits(32) if engine.rank == 0 else 0)
        self._thread: Thread | None = None
        self._failure: str | None = None
        self._last_step = -1

    def save(self, progress: Progress, metrics: Mapping[str, float], *, wait: bool = False) -> bool:
        """Start writing a checkpoint, and return True; skip it and return False while the previous one is being written.

        If the previous checkpoint has the same step, only its metrics are updated.
        wait: wait for the previous checkpoint, so that this one is never skipped. Raises RunFailedError on all ranks if
        storage failed for longer than `patience_seconds`.
        """
        if progress.step == self._last_step:
            if metrics and self._engine.rank == 0:
                self._join()
                self._start(self._rate, progress.step, metrics)
            return True
        if wait:
            self._join()
        busy = self._thread is not None and self._thread.is_alive()
        unfinished = self._agree(int(busy))
        self._check()
        if unfinished:
            return False
        self._last_step = progress.step
        state = self._engine.state()
        held = snapshot(state, self._engine.rank, self._engine.world_size)
        self._start(self._write, copy(progress), state.optimizer_step, metrics, held)
        return True

    def finish(self) -> None:
        """Wait until the last started checkpoint is complete. Raises RunFailedError if it could not be written."""
        self._join()
        self._agree(0)
        self._check()

    def _write(
        self, progress: Progress, optimizer_step: float, metrics: Mapping[str, float], held: dict[str, Any]
    ) -> None:
        folder = checkpoint.folder_of(self._root, progress.step, self._attempt)
        with self._trying(progress.step) as retries:
            retries.attempt(self._write_mine, folder, held)
            held.clear()
            if self._engine.rank == 0:
                records = self._records(folder, retries)
                retries.attempt(self._before_manifest)
                retries.attempt(checkpoint.write_manifest, folder, progress, optimizer_step, metrics, records)
                self._written(progress.step)
                options = self._options
                with suppress(OSError):  # the next checkpoint retires what remains
                    checkpoint.retire(self._root, keep=options.keep, best=options.best)

    def _rate(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._trying(step) as retries:
            retries.attempt(checkpoint.rate, checkpoint.folder_of(self._root, step, self._attempt), metrics)

    @contextmanager
    def _trying(self, step: int) -> Iterator[Retries]:
        """Give the block a `Retries`, and keep its failure, which all ranks learn at the next checkpoint."""
        try:
            yield Retries(self._options.patience_seconds, "a checkpoint cannot be written", self._troubled)
        except Exception as error:
            self._failure = f"the checkpoint of step {step} could not be written: {reason_of(error)}"
            if isinstance(error, TimeoutError):  # raised by Retries
                self._failure += (
                    f" (in {self._root}, for longer than train.save_patience_minutes). Fix the storage, and run the "
                    "same command again"
                )

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        self._thread = Thread(target=work, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()

    def _write_mine(self, folder: StoragePath, held: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"rank-{self._engine.rank:05d}"
        size, digest = write(folder / f"{name}.safetensors", held)
        record = {"file": f"{name}.safetensors", "bytes": size, "sha256": digest}
        storage.write(folder / f"{name}.json", json.dumps(record), durable=True)

    def _records(self, folder: StoragePath, retries: Retries) -> list[dict[str, Any]]:
        """Wait until all ranks have written their files, and return their records in the order of ranks."""
        found: dict[int, dict[str, Any]] = {}
        while len(found) < self._engine.world_size:
            for rank in set(range(self._engine.world_size)) - found.keys():
                with suppress(OSError):
                    found[rank] = storage.read_json(folder / f"rank-{rank:05d}.json")
            if len(found) < self._engine.world_size:
                retries.pause(POLL_SECONDS, "other workers have not written their files")
        return [found[rank] for rank in sorted(found)]

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _check(self) -> None:
        if self._agree(int(self._failure is not None)):
            raise RunFailedError(
                self._failure
                or "another worker could not write its file of a checkpoint. Fix: check the storage, then run the same command again"
            )

    def _agree(self, value: int) -> int:
        """Return the sum of a value over all ranks."""
        values = torch.tensor([value], dtype=torch.int64, device=self._engine.device)
        return int(self._engine.sum(values).item())
