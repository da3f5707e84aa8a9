"""How many nodes a run asks for, and how large: arithmetic on `cluster:`."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from medray.config import Config
from medray.errors import InputError
from medray.plan.resources import DATA_CPUS


@dataclass(frozen=True)
class Shape:
    """Equal nodes. workers: on one node at most."""

    nodes: int
    workers: int
    cpus: int
    gpus: int


def shape(config: Config, cpus_per_node: int | None = None) -> Shape:
    """The nodes of a launched run; each has a CPU more than its workers, on which Ray Data reads and tokenizes.

    Without cluster.nodes: a worker a GPU fills nodes of cluster.gpus_per_node; workers on CPUs share one node.
    Raises InputError where the workers do not fit.
    """
    cluster = config.cluster
    gpus = cluster.gpus_per_node or 0
    most = cluster.most_workers
    nodes = cluster.nodes or (ceil(most / gpus) if gpus else 1)
    workers = ceil(most / nodes)
    if gpus and workers > gpus:
        raise InputError(
            f"{most} workers with a GPU each do not fit on {nodes} nodes of {gpus} GPUs",
            key="cluster.nodes",
            value=cluster.nodes,
            mend=f"cluster.nodes: {ceil(most / gpus)}",
        )
    cpus = cpus_per_node or ceil(workers * (cluster.cpus_per_worker or 1)) + DATA_CPUS
    return Shape(nodes, workers, cpus, gpus)
