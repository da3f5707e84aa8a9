"""The share of the cluster that each trial of a search gets. It is decided once, so that trials can be compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from medray.config import Config
from medray.errors import InputError
from medray.plan.resources import Request, Supply, resolve, shortage, threads


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The resources of every trial. concurrent: trials at the same time. cpus, gpus, threads: per worker."""

    concurrent: int
    workers: int
    cpus: float
    gpus: int
    threads: int

    def keys(self) -> dict[str, Any]:
        """Return the keys of a config that say the same."""
        return {
            "cluster.workers": self.workers,
            "cluster.cpus_per_worker": self.cpus,
            "cluster.gpus": bool(self.gpus),
            "cluster.threads_per_worker": self.threads,
        }


def share(config: Config, have: Supply, most: int) -> Share:
    """Return the share of each trial: as many trials at the same time as the cluster holds, with a CPU left for data.

    most: number of trials that are left. Without cluster.cpus_per_worker, a worker has one CPU, or an even share of the
    CPUs if tune.concurrent is set. Raises InputError with the numbers if the cluster cannot hold one trial.
    """
    cluster, asked = config.cluster, config.tune.concurrent if config.tune else None
    gpus = int(cluster.gpus if cluster.gpus is not None else have.gpus > 0)
    for concurrent in range(max(1, min(asked or most, most)), 0, -1):
        request = Request(cluster.fewest_workers * concurrent, cluster.cpus_per_worker, gpus)
        if cluster.cpus_per_worker is None:
            even = resolve(request, have).cpus_per_worker or 1.0
            # As many trials as possible: a small model on one CPU is rarely faster on two.
            request = replace(
                request, cpus_per_worker=even if asked or (even < 1 and concurrent == 1) else 1.0
            )
        if shortage(request, have) is None:
            return Share(
                concurrent=concurrent,
                workers=cluster.fewest_workers,
                cpus=request.cpus_per_worker or 1.0,
                gpus=gpus,
                threads=cluster.threads_per_worker or threads(request, have),
            )
    lack = shortage(Request(cluster.fewest_workers, cluster.cpus_per_worker, gpus), have)
    raise InputError(
        f"one trial does not fit: {lack.what if lack else 'too few CPUs'}",
        key="cluster.workers",
        value=cluster.workers,
        fix=lack.fix if lack else "use fewer workers",
    )
