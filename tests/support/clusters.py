"""Ray clusters of processes that only we end: a head with dashboard and job server, and nodes that join it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
# A node is dead after five checks in a row that nobody answered: with Ray's default of 3,000 after some 15 seconds.
HEALTH_CHECK_MS = "1000"


@dataclass(frozen=True)
class Cluster:
    """A cluster. address: the head's, for drivers. jobs: the job server's. head: the process of the head."""

    address: str
    jobs: str
    head: psutil.Process

    def processes(self, name: str) -> list[psutil.Process]:
        """Living processes of the head's node whose command line begins with `name`."""
        return processes_below(self.head, name)

    @contextlib.contextmanager
    def node(self, folder: Path, cpus: int = 1) -> Iterator[psutil.Process]:
        """Another node of this cluster on this machine; what it gives is the process that holds its raylet.

        It has an address of its own: a driver joins any node of its machine's address, and would go with this one.
        """
        (metrics, agent) = free_ports(2)
        log = folder / f"node-{metrics}.log"
        options = [
            f"--address={self.address}",
            f"--node-ip-address=127.0.{metrics // 256}.{metrics % 256}",
            f"--num-cpus={cpus}",
            f"--metrics-export-port={metrics}",
            f"--dashboard-agent-listen-port={agent}",
            "--object-store-memory=100000000",
        ]
        process = _started([*RAY, *options], log)
        try:
            _wait(process, log, lambda: "Ray runtime started" in log.read_text())
            yield psutil.Process(process.pid)
        finally:
            end(process)

    def give_notice(self, seconds: int | None) -> None:
        """Tells every node but the head that it will be taken away, None: at a time unknown. It does not take it."""
        import ray
        from ray.core.generated import autoscaler_pb2

        raylet: Any = ray._raylet
        protocol: Any = autoscaler_pb2
        client = raylet.GcsClient(address=self.address)
        nodes = [node.hex() for node, info in client.get_all_node_info().items() if not info.is_head_node]
        for node in nodes:
            deadline = int((time.time() + seconds) * 1000) if seconds is not None else 0
            reason = protocol.DRAIN_NODE_REASON_PREEMPTION
            assert client.drain_node(node, reason, "spot", deadline)[0]


def processes_below(node: psutil.Process, name: str) -> list[psutil.Process]:
    found = []
    for process in node.children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(name):
                found.append(process)
        except psutil.Error:
            continue
    return found


def free_ports(count: int) -> list[int]:
    """Ports that were free just now, outside the range that Ray gives its workers."""
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        if not 10002 <= sock.getsockname()[1] <= 19999:
            sockets.append(sock)
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@contextlib.contextmanager
def head(log_folder: Path, cpus: int, *more: str, **environment: str) -> Iterator[Cluster]:
    """A head whose job server answers. more: options of `ray start`."""
    port, dashboard, agent, client, metrics = free_ports(5)
    # Ray's sockets live under its folder, and a socket's path holds 107 characters at most.
    log = log_folder / "head.log"
    options = [
        "--head",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}",
        f"--metrics-export-port={metrics}",
        f"--num-cpus={cpus}",
        f"--temp-dir=/tmp/medray-ray-{port}",
        "--object-store-memory=300000000",
        *more,
    ]
    process = _started([*RAY, *options], log, RAY_health_check_period_ms=HEALTH_CHECK_MS, **environment)
    try:
        # The dashboard answers last, so the cluster is up when it does.
        _wait(process, log, lambda: _listens(dashboard) and "--address='" in log.read_text())
        yield Cluster(_address(log), f"http://127.0.0.1:{dashboard}", psutil.Process(process.pid))
    finally:
        end(process)


def _started(command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    with log.open("w") as stream:
        return subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        assert process.poll() is None, log.read_text()
        if ready():
            return
        time.sleep(0.2)
    raise TimeoutError(log.read_text())


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _address(log: Path) -> str:
    found = re.search(r"--address='([^']+)'", log.read_text())
    assert found, log.read_text()
    return found[1]


def end(process: subprocess.Popen[bytes]) -> None:
    """End a node, then the processes that it has left."""
    family = _family(process.pid)
    process.kill()
    process.wait()
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()


def _family(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []
