"""One Ray cluster for all tests of this folder: a head with dashboard and job server, in processes that only we end."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

# Read by Ray while it is imported, so it stands before any test's import.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"


@dataclass(frozen=True)
class Cluster:
    """address: of the head for drivers; jobs: of the job server; head: its process."""

    address: str
    jobs: str
    head: psutil.Process

    def processes(self, name: str) -> list[psutil.Process]:
        """Living processes of this cluster whose command line begins with `name`."""
        found = []
        for process in self.head.children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(name):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def free_ports(count: int) -> list[int]:
    """Ports that were free just now, outside the range that Ray gives its workers."""
    sockets = []
    while len(sockets) < count:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        if not 10002 <= sock.getsockname()[1] <= 19999:
            sockets.append(sock)
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    port, dashboard, agent, client, metrics = free_ports(5)
    # Ray's sockets live under its folder, and a socket's path holds 107 characters at most.
    folder = Path("/tmp") / f"medray-ray-{os.getpid()}"
    log = tmp_path_factory.mktemp("ray") / "head.log"
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}",
        f"--metrics-export-port={metrics}",
        "--num-cpus=4",
        f"--temp-dir={folder}",
        "--object-store-memory=300000000",
        "--disable-usage-stats",
    ]
    with log.open("w") as stream:
        head = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    try:
        _wait_for(dashboard, head, log)
        yield Cluster(_address(log), f"http://127.0.0.1:{dashboard}", psutil.Process(head.pid))
    finally:
        _end(head)


@pytest.fixture(scope="package")
def connected(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, joined by the test process."""
    import ray

    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    yield cluster
    ray.shutdown()


def _wait_for(port: int, head: subprocess.Popen[bytes], log: Path) -> None:
    """The dashboard answers last, so the cluster is up when it does."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        assert head.poll() is None, log.read_text()
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0 and "Ray runtime started" in log.read_text():
                return
        time.sleep(0.2)
    raise TimeoutError(log.read_text())


def _address(log: Path) -> str:
    found = re.search(r"--address='([^']+)'", log.read_text())
    assert found, log.read_text()
    return found[1]


def _end(head: subprocess.Popen[bytes]) -> None:
    """Ends the head, then whatever it has left behind."""
    family = psutil.Process(head.pid).children(recursive=True)
    head.kill()
    head.wait()
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
