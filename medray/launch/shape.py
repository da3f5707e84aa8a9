"""How many nodes a run asks for, and how large: arithmetic on `cluster:`."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from medray.config import Config
from medray.errors import InputError
from medray.plan.resources import DATA_CPUS, NodeSupply, Request, Supply, shortage


@dataclass(frozen=True)
class Shape:
    """Equal nodes. workers: on one node at most."""

    nodes: int
    workers: int
    cpus: int
    gpus: int


def shape(
    config: Config, cpus_per_node: int | None = None, *, key: str = "launch.k8s.cpus_per_node"
) -> Shape:
    """The nodes of a launched run; each has a CPU more than its workers, on which Ray Data reads and tokenizes.

    Without cluster.nodes: a worker a GPU fills nodes of cluster.gpus_per_node; workers on CPUs share one node.
    key: where cpus_per_node was given. Raises InputError where the workers do not fit.
    """
    cluster = config.cluster
    gpus = cluster.gpus_per_node or 0
    _check_gpus(config, gpus)
    most = cluster.most_workers
    nodes = cluster.nodes or (ceil(most / gpus) if gpus else 1)
    workers = ceil(most / nodes)
    if gpus and workers > gpus:
        raise InputError(
            f"{most} workers with a GPU each do not fit on {nodes} nodes of {gpus} GPUs",
            key="cluster.nodes",
            value=cluster.nodes,
            fix=f"cluster.nodes: {ceil(most / gpus)}",
        )
    wanted = ceil(workers * (cluster.cpus_per_worker or 1)) + DATA_CPUS
    if cpus_per_node is not None:
        # The run would find the same, but only when its nodes are there.
        request = Request(cluster.fewest_workers, cluster.cpus_per_worker, 1 if gpus else 0)
        asked = Supply.of(*[NodeSupply(cpus_per_node, gpus)] * nodes)
        if lack := shortage(request, asked, "its nodes would have"):
            raise InputError(
                lack.what,
                key=key,
                value=cpus_per_node,
                fix=f"{key}: {wanted}, or leave it out",
            )
    return Shape(nodes, workers, cpus_per_node or wanted, gpus)


def _check_gpus(config: Config, gpus: int) -> None:
    if config.cluster.gpus and not gpus:
        raise InputError(
            "each worker shall have a GPU (cluster.gpus), and no GPUs are asked for",
            key="cluster.gpus_per_node",
            value=config.cluster.gpus_per_node,
            fix="cluster.gpus_per_node=4 for nodes of 4 GPUs, or leave cluster.gpus out",
        )
    if config.cluster.gpus is False and gpus:
        raise InputError(
            "no worker takes a GPU (cluster.gpus is false), and GPUs are asked for",
            key="cluster.gpus_per_node",
            value=gpus,
            fix="cluster.gpus_per_node=0 to train on CPUs, or leave cluster.gpus out",
        )
