"""Worker loops on several ranks without Ray.

A rank spends 10 CPU seconds on imports, so two ranks live as long as the tests of a process and take one set of plans
after another. Other numbers of ranks are started afresh, by torchrun itself.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from memory_census import Case
from recorder import Recorder

from medray.train.loop import training
from medray.train.worker_plan import WorkerPlan

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
LOOPS = str(SUPPORT / "torchrun_loops.py")
LIMIT_SECONDS = 500
KEPT = 2  # ranks


def measure(folder: Path, cases: dict[str, Case]) -> dict[str, dict[str, int]]:
    """Return the bytes on rank 0 of two for each tiny run, see `memory_census.measured`."""
    return run_loops(folder, cases, KEPT)


def run_loops(folder: Path, plans: Mapping[str, WorkerPlan | Case], processes: int) -> dict[str, Any]:
    """Return what rank 0 of `processes` ranks saw of each plan's loop; of one rank, in this process, its steps alone."""
    if processes == 1:
        return {name: {"steps": _steps(plan)} for name, plan in plans.items() if isinstance(plan, WorkerPlan)}
    work, result = folder / f"plans-{processes}.pickle", folder / f"seen-{processes}.json"
    work.write_bytes(pickle.dumps(dict(plans)))
    if processes == KEPT:
        if not _kept:
            _kept.append(_Ranks(KEPT))
        _kept[0].run(work, result)
    else:
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc-per-node={processes}", LOOPS, str(work), str(result)],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def _steps(plan: WorkerPlan) -> list[dict[str, Any]]:
    recorder = Recorder()
    training.run(plan, recorder)
    return recorder.steps


def extensions() -> Path:
    """The folder into which the two ranks would compile DeepSpeed's extensions."""
    return _kept[0].extensions


class _Ranks:
    def __init__(self, count: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="medray-ranks-")
        self.extensions = Path(self._folder.name) / "extensions"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self._logs = [Path(self._folder.name) / f"rank-{rank}.log" for rank in range(count)]
        self._ranks = [self._start(rank, count, port) for rank in range(count)]
        atexit.register(self.end)

    def _start(self, rank: int, count: int, port: str) -> subprocess.Popen[bytes]:
        with self._logs[rank].open("wb") as log:
            return subprocess.Popen(
                [sys.executable, LOOPS],
                env=_environment(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(count),
                    LOCAL_WORLD_SIZE=str(count),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=port,
                    TORCH_EXTENSIONS_DIR=str(self.extensions),
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def run(self, work: Path, result: Path) -> None:
        for rank in self._ranks:
            _pipe(rank.stdin).write(json.dumps([str(work), str(result)]).encode() + b"\n")
            _pipe(rank.stdin).flush()
        limit = time.monotonic() + LIMIT_SECONDS
        with selectors.DefaultSelector() as waiting:
            for rank in self._ranks:
                waiting.register(_pipe(rank.stdout), selectors.EVENT_READ)
            while waiting.get_map():
                ready = waiting.select(max(0.0, limit - time.monotonic()))
                pipes = [cast("IO[bytes]", key.fileobj) for key, _ in ready]
                answers = [pipe.readline() for pipe in pipes]
                if not ready or not all(answers):  # too late, or a rank has ended: the others wait for it
                    self.end()
                    _kept.clear()
                    raise AssertionError("\n".join(log.read_text()[-6000:] for log in self._logs))
                for key, _ in ready:
                    waiting.unregister(key.fileobj)

    def end(self) -> None:
        for rank in self._ranks:
            rank.kill()
            rank.wait()
            _pipe(rank.stdin).close()
            _pipe(rank.stdout).close()


_kept: list[_Ranks] = []


def _environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(SUPPORT)])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
