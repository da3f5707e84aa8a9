"""The number and the size of the nodes that a launched run asks for, computed from `cluster:`."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from medray.config import Config
from medray.errors import InputError
from medray.plan.resources import DATA_CPUS, NodeSupply, Request, Supply, shortage


@dataclass(frozen=True)
class Shape:
    """A number of equal nodes, with the workers, CPUs and GPUs of each.

    workers: most workers on one node. cpus, gpus: per node.
    """

    nodes: int
    workers: int
    cpus: int
    gpus: int


def shape(
    config: Config, cpus_per_node: int | None = None, *, key: str = "launch.k8s.cpus_per_node"
) -> Shape:
    """Compute the nodes of a launched run.

    Each has one CPU more than its workers need, for Ray Data to read and tokenize.

    Without cluster.nodes, workers with GPUs (one GPU per worker) fill nodes of cluster.gpus_per_node, and workers on
    CPUs share one node. key: the key that sets cpus_per_node. Raises InputError if the workers do not fit.
    """
    cluster = config.cluster
    gpus = cluster.gpus_per_node or 0
    _check_gpus(config, gpus)
    # A search runs trials at the same time only where the config says how many; else one after the other.
    most = cluster.most_workers * ((config.tune.concurrent or 1) if config.tune else 1)
    nodes = cluster.nodes or (ceil(most / gpus) if gpus else 1)
    workers = ceil(most / nodes)
    if gpus and workers > gpus:
        raise InputError(
            f"{most} workers need {most} GPUs, but {nodes} nodes with {gpus} GPUs have only {nodes * gpus}",
            key="cluster.nodes",
            value=cluster.nodes,
            fix=f"set cluster.nodes: {ceil(most / gpus)}",
        )
    wanted = ceil(workers * (cluster.cpus_per_worker or 1)) + DATA_CPUS
    if cpus_per_node is not None:
        # The run would raise the same error, but only when its nodes have started.
        request = Request(cluster.fewest_workers, cluster.cpus_per_worker, 1 if gpus else 0)
        asked = Supply.of(*[NodeSupply(cpus_per_node, gpus)] * nodes)
        if lack := shortage(request, asked, "its nodes would have"):
            raise InputError(
                lack.what,
                key=key,
                value=cpus_per_node,
                fix=f"set {key}: {wanted}, or remove this key",
            )
    return Shape(nodes, workers, cpus_per_node or wanted, gpus)


def _check_gpus(config: Config, gpus: int) -> None:
    if config.cluster.gpus and not gpus:
        raise InputError(
            "cluster.gpus wants a GPU for each worker, but the nodes have no GPUs",
            key="cluster.gpus_per_node",
            value=config.cluster.gpus_per_node,
            fix="set cluster.gpus_per_node=4 for nodes with 4 GPUs, or remove cluster.gpus",
        )
    if config.cluster.gpus is False and gpus:
        raise InputError(
            "cluster.gpus is false, so no worker uses a GPU, but the nodes would have GPUs",
            key="cluster.gpus_per_node",
            value=gpus,
            fix="set cluster.gpus_per_node=0 to train on CPUs, or remove cluster.gpus",
        )
