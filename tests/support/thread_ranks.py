"""Ranks as threads of this process: real engines, checkpoints and collectives, without the start of a process group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from medray.config.train import TrainConfig
from medray.train.engine import TorchEngine


class RankEngine(TorchEngine):
    """Plain torch on every rank, as data parallelism has it: all ranks hold all weights."""

    def __init__(self, rank: int, ranks: Ranks, features: int) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(features, features), nn.Linear(features, 1))
        super().__init__(model, TrainConfig(), torch.device("cpu"))
        self.rank, self.world_size, self._ranks = rank, ranks.count, ranks

    def sum(self, values: Tensor) -> Tensor:
        return self._ranks.sum(self.rank, values)


class Ranks:
    """A group of `count` ranks. An exception on one of them ends the waits of the others."""

    def __init__(self, count: int, features: int = 6) -> None:
        self.count = count
        self._barrier = threading.Barrier(count, timeout=60)
        self._given: list[Tensor] = [torch.empty(0)] * count
        with torch.random.fork_rng():
            self.engines = [RankEngine(rank, self, features) for rank in range(count)]

    def sum(self, rank: int, values: Tensor) -> Tensor:
        self._given[rank] = values.clone()
        self._barrier.wait()
        total = torch.stack(self._given).sum(dim=0)
        self._barrier.wait()
        return total

    def run(self, work: Callable[[Any], Any]) -> list[Any]:
        """Return what `work` makes of each rank's engine. Raises the first rank's own exception."""

        def guarded(engine: RankEngine) -> Any:
            try:
                return work(engine)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.count) as pool:
            futures: list[Future[Any]] = [pool.submit(guarded, engine) for engine in self.engines]
        self._barrier.reset()
        broken = [error for one in futures if (error := one.exception())]
        for error in sorted(broken, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
            raise error
        return [one.result() for one in futures]
