"""A checkpoint's state on storage: a safetensors file a rank, and reading any run of elements out of all of them.

A tensor is named `kind/parameter`; where in the parameter it begins stands in the file's metadata.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medray.errors import RunFailedError
from medray.train.engine_state import EXTRA, KINDS, Run, TrainState

_STARTS = "starts"


def snapshot(state: TrainState, rank: int, world_size: int) -> dict[str, tuple[int, Tensor]]:
    """Copies of what this rank writes, in host memory: {kind/parameter: (start, float32 [elements])}."""
    held = {
        f"{kind}/{run.name}": (run.start, run.get(kind).detach().to("cpu", torch.float32, copy=True))
        for run in _written(state, rank, world_size)
        for kind in KINDS
    }
    if state.beside and rank == 0:
        for name, one in state.beside.tensors().items():
            held[f"{EXTRA}/{name}"] = (0, one.detach().flatten().to("cpu", torch.float32, copy=True))
    return held


def _written(state: TrainState, rank: int, world_size: int) -> Iterable[Run]:
    """What all ranks hold alike is written once, in about equal shares."""
    if not state.replicated:
        return [run for run in state.runs if run.stop > run.start]
    loads, mine = [0] * world_size, []
    for run in sorted(state.runs, key=lambda run: run.start - run.stop):
        owner = loads.index(min(loads))
        loads[owner] += run.stop - run.start
        if owner == rank:
            mine.append(run)
    return mine


def write(file: Path, held: dict[str, tuple[int, Tensor]]) -> None:
    """Raises OSError where storage does."""
    starts = json.dumps({name: start for name, (start, _) in held.items()})
    try:
        save_file({name: values for name, (_, values) in held.items()}, file, metadata={_STARTS: starts})
    except SafetensorError as error:  # its name for a disk that is full
        raise OSError(str(error)) from error


class StateReader:
    """Runs of elements out of the files of all ranks that wrote a checkpoint. A context: it holds them open."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._pieces: dict[str, list[tuple[int, int, Any]]] = defaultdict(list)

    def __enter__(self) -> StateReader:
        self._open = ExitStack()
        for file in self._files:
            handle = self._open.enter_context(safe_open(str(file), "pt"))
            starts = json.loads((handle.metadata() or {})[_STARTS])
            for name, start in starts.items():
                part = handle.get_slice(name)
                self._pieces[name].append((start, start + part.get_shape()[0], part))
        return self

    def __exit__(self, *reason: object) -> None:
        self._pieces.clear()
        self._open.close()

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor:
        """Elements start to stop, float32. Raises RunFailedError where the files do not hold them all, each once."""
        found = torch.empty(stop - start)
        filled = 0
        for begin, end, part in self._pieces.get(f"{kind}/{name}", ()):
            first, last = max(begin, start), min(end, stop)
            if first < last:
                found[first - start : last - start] = part[first - begin : last - begin]
                filled += last - first
        if filled != stop - start:
            raise RunFailedError(
                f"the checkpoint holds {filled} of {stop - start} values of {kind} {name}: it is of another model or "
                "adapter"
            )
        return found

    def sizes(self) -> dict[str, int]:
        """Elements of each parameter, as the files have them."""
        return {
            name.removeprefix(f"{KINDS[0]}/"): sum(end - begin for begin, end, _ in parts)
            for name, parts in self._pieces.items()
            if name.startswith(f"{KINDS[0]}/")
        }
