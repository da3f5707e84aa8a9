"""A Ray cluster whose nodes are namespaces: a head in the first, a worker node in each other, with links to cut."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusters import RAY, end
from namespaces import LOCAL, Node, network

PORT = 6379
OPTIONS = (f"--temp-dir={LOCAL}/ray", "--object-store-memory=100000000", "--disable-usage-stats")


@dataclass(frozen=True)
class NamespaceCluster:
    """A cluster of namespaces. processes: Ray's process on each node, by the node's name, as this machine sees them."""

    nodes: Sequence[Node]
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]]

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def address(self) -> str:
        return f"{self.head.address}:{PORT}"

    def medray(self, *words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `medray WORDS` on the head until it ends."""
        command = [sys.executable, "-m", "medray", *words]
        return self.head.run(command, {"RAY_ADDRESS": self.address}, seconds)

    def start_medray(self, log: Path, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `medray WORDS` on the head, and return while it runs."""
        command = [sys.executable, "-m", "medray", *words]
        return self.head.start(command, log, {"RAY_ADDRESS": self.address, **environment})


@contextlib.contextmanager
def namespace_cluster(
    folder: Path, cpus: Sequence[int], environment: Mapping[str, str] | None = None
) -> Iterator[NamespaceCluster]:
    """Up when all its nodes have joined. cpus: of each node, the head's first. environment: of Ray's processes."""
    addresses = {f"n{number}": f"10.77.0.{10 + number}" for number in range(1, len(cpus) + 1)}
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(network(folder, addresses))
        cluster = NamespaceCluster(nodes, folder, {})
        for node, share in zip(nodes, cpus, strict=True):
            stack.enter_context(ray_node(cluster, node, share, environment))
        yield cluster


@contextlib.contextmanager
def ray_node(
    cluster: NamespaceCluster, node: Node, cpus: int, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Ray on one node: the head on the first, else one that joins it."""
    log = cluster.folder / f"ray-{node.name}.log"
    log.write_text("")
    role = (
        ["--head", f"--port={PORT}", "--include-dashboard=false"]
        if node is cluster.head
        else [f"--address={cluster.address}"]
    )
    words = [*RAY, *role, f"--node-ip-address={node.address}", f"--num-cpus={cpus}", *OPTIONS]
    process = cluster.processes[node.name] = node.start(words, log, {**os.environ, **(environment or {})})
    try:
        limit = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        end(process)
