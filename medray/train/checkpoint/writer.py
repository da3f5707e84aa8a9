"""Writes checkpoints beside training: a copy in host memory is all that a step waits for.

Each rank's thread writes its file, and then a record of it; rank 0's waits for the records of all, and writes the
manifest. Where storage fails, a thread tries again until the user's patience ends; meanwhile training goes on.
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
from medray.train.step import Progress

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class WriterOptions:
    """keep, best: see `checkpoint.retire`. patience_seconds: how long a checkpoint may fail before the run does."""

    keep: int
    best: str | None
    patience_seconds: float


class CheckpointWriter:
    """Of one rank. Its methods are collective: all ranks call them at the same steps.

    before_manifest, written: called on rank 0's thread, before a manifest and after it, with the step. The first may
    raise OSError and is tried again.
    troubled: called once a checkpoint on each rank's thread when storage fails.
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
        # Not the time: a clock may jump, and two starts must never write into one folder.
        self._attempt = self._agree(secrets.randbits(32) if engine.rank == 0 else 0)
        self._thread: Thread | None = None
        self._failure: str | None = None
        self._last_step = -1

    def save(self, progress: Progress, metrics: Mapping[str, float], *, wait: bool = False) -> bool:
        """Begins a checkpoint and returns; False where the one before is still being written, and this one is left out.

        At the step of the one before only metrics are new: they are added to it.
        wait: for the one before, so that this one is never left out. Raises RunFailedError on all ranks when storage
        failed for longer than the patience.
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
        """Returns when the last checkpoint that was begun is complete. Raises RunFailedError where it cannot be."""
        self._join()
        self._agree(0)
        self._check()

    def _write(
        self, progress: Progress, optimizer_step: float, metrics: Mapping[str, float], held: dict[str, Any]
    ) -> None:
        folder = checkpoint.folder_of(self._root, progress.step, self._attempt)
        with self._trying(progress.step) as patience:
            patience.attempt(self._write_mine, folder, held)
            held.clear()
            if self._engine.rank == 0:
                records = self._records(folder, patience)
                patience.attempt(self._before_manifest)
                patience.attempt(
                    checkpoint.write_manifest, folder, progress, optimizer_step, metrics, records
                )
                self._written(progress.step)
                options = self._options
                with suppress(OSError):  # the next one retires what this one could not
                    checkpoint.retire(self._root, keep=options.keep, best=options.best)

    def _rate(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._trying(step) as patience:
            patience.attempt(checkpoint.rate, checkpoint.folder_of(self._root, step, self._attempt), metrics)

    @contextmanager
    def _trying(self, step: int) -> Iterator[Retries]:
        """What fails inside for longer than the patience is told to all ranks at the next checkpoint."""
        try:
            yield Retries(self._options.patience_seconds, "a checkpoint cannot be written", self._troubled)
        except Exception as error:
            self._failure = f"the checkpoint of step {step} could not be written: {reason_of(error)}"
            if isinstance(error, TimeoutError):  # of the patience
                self._failure += (
                    f" (in {self._root}, for longer than train.save_patience_minutes). Mend it, and run the same "
                    "command again"
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

    def _records(self, folder: StoragePath, patience: Retries) -> list[dict[str, Any]]:
        """Of all ranks, when all have written."""
        found: dict[int, dict[str, Any]] = {}
        while len(found) < self._engine.world_size:
            for rank in set(range(self._engine.world_size)) - found.keys():
                with suppress(OSError):
                    found[rank] = storage.read_json(folder / f"rank-{rank:05d}.json")
            if len(found) < self._engine.world_size:
                patience.pause(POLL_SECONDS, "other workers have not written their part")
        return [found[rank] for rank in sorted(found)]

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _check(self) -> None:
        if self._agree(int(self._failure is not None)):
            raise RunFailedError(self._failure or "another worker could not write its part of a checkpoint")

    def _agree(self, value: int) -> int:
        """The sum over all ranks."""
        values = torch.tensor([value], dtype=torch.int64, device=self._engine.device)
        return int(self._engine.sum(values).item())
