"""The wait for the nodes that a run needs: a driver often starts before them, under SLURM, on Kubernetes, after a requeue.

Nothing is decided before the wait ends (GPU or CPU, shares, threads), so that no decision depends on which node came first.
"""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import medray
from medray.config import Config
from medray.config.cluster import ClusterConfig
from medray.errors import InputError, RunFailedError
from medray.plan.resources import DATA_CPUS, SAME_VERSIONS, Request, Supply, asked, plural, shortage
from medray.report.console import duration
from medray.train.driver.observer import Observer
from medray.train.driver.one_machine import on_loopback
from medray.train.prepare import supply

LOOK_SECONDS = 0.5
VERSION_SECONDS = 60  # time limit for a node to answer with its versions


@contextmanager
def awaited(
    config: Config, gpus: int | None, observer: Observer, look: Callable[[], Supply] = supply
) -> Iterator[Supply]:
    """Wait until the cluster has enough, and yield what it has. Requests to an autoscaler are withdrawn when the block ends.

    gpus: number per worker, if the run is known to compute on GPUs; None if the cluster decides. look: called repeatedly,
    returns what the living nodes have. A cluster that is complete and too small is yielded as it is; `prepare.resources`
    then raises the InputError. Raises RunFailedError if the nodes do not come within cluster.start_timeout_seconds.
    """
    cluster, began, said, requested = config.cluster, time.monotonic(), None, False
    request = _request(cluster, gpus)
    try:
        while lacking := missing(cluster, request, have := look(), private=on_loopback()):
            if not requested:
                requested = True
                _request_nodes(replace(request, workers=cluster.most_workers))
            if lacking != said:
                said = lacking
                limit = duration(cluster.start_timeout_seconds)
                observer.phase("nodes", f"{lacking}; waiting up to {limit} (cluster.start_timeout_seconds)")
            if time.monotonic() - began > cluster.start_timeout_seconds:
                raise RunFailedError(
                    f"after {duration(cluster.start_timeout_seconds)} the cluster still has too little: {lacking}. Run the "
                    "same command again when its nodes are there, or set cluster.nodes to the number that it will have"
                )
            observer.beat()
            time.sleep(LOOK_SECONDS)
        yield have
    finally:
        if requested:
            _request_nodes(None)


def missing(cluster: ClusterConfig, request: Request, have: Supply, *, private: bool) -> str | None:
    """Return what is asked for and what is there; None if the run can start or the cluster is complete.

    Nodes without CPUs and GPUs, such as a head that does no work, do not count.
    """
    there = [node for node in have.nodes if node.cpus or node.gpus]
    if private or (cluster.nodes is not None and len(there) >= cluster.nodes):
        return None
    elastic = cluster.most_workers > cluster.fewest_workers
    enough = have.cpus > 0 and shortage(request, have) is None
    if enough and (cluster.nodes is None or elastic):
        return None
    nodes = f"{plural(cluster.nodes, 'node')} and " if cluster.nodes else ""
    return (
        f"asked: {nodes}{asked(request)}; there: {plural(len(there), 'node')} with {have.cpus:g} CPUs and "
        f"{have.gpus:g} GPUs"
    )


def _request(cluster: ClusterConfig, gpus: int | None) -> Request:
    per_worker = int(cluster.gpus) if cluster.gpus is not None else gpus or int(bool(cluster.gpus_per_node))
    return Request(cluster.fewest_workers, cluster.cpus_per_worker, per_worker)


def _request_nodes(request: Request | None) -> None:
    """Ask an autoscaler for the workers' resources and a CPU for data; None withdraws. No autoscaler: nothing happens."""
    from ray.autoscaler.sdk import request_resources

    if request is None:
        request_resources(bundles=[])
        return
    worker = {"CPU": request.cpus_per_worker or 1} | (
        {"GPU": request.gpus_per_worker} if request.gpus_per_worker else {}
    )
    request_resources(bundles=[worker] * request.workers + [{"CPU": DATA_CPUS}])


def ask_versions() -> dict[str, Any]:
    """Start asking the other nodes for their versions. Returns {node's name: Ray's reference}, for `check_versions`."""
    own = ray.get_runtime_context().get_node_id()
    task = ray.remote(num_cpus=0, max_retries=0)(versions)
    return {
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})": task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != own
    }


def check_versions(asked_of: dict[str, Any]) -> None:
    """Raise InputError with a table if a node has other versions than the driver. A node that has left is ignored."""
    here, differ = versions(), []
    ray.wait(
        list(asked_of.values()), num_returns=len(asked_of), timeout=VERSION_SECONDS
    ) if asked_of else None
    for node, reference in asked_of.items():
        try:
            there = ray.get(reference, timeout=0)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, ModuleNotFoundError):
                continue
            there = {"medray": "missing"}
        except (ray.exceptions.RayError, TimeoutError):
            continue
        differ += [
            f"{node}: {name} {there[name]}, here {here[name]}"
            for name in there
            if there[name] != here.get(name)
        ]
    if differ:
        raise InputError(
            f"the nodes do not have the same versions as {socket.gethostname()}: {'; '.join(differ[:10])}",
            key="cluster.address",
            fix="install the same versions on all nodes: make install, or one image for all of them",
        )


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute on this node, without importing them.

    The build (`+cpu`, `+cu128`) is left out: a head without GPUs may have another build than the workers.
    """
    found = {"python": platform.python_version(), "medray": medray.__version__}
    for package in SAME_VERSIONS[1:]:
        try:
            found[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found
