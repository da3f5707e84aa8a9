"""One node of the Ray cluster that a SLURM job has for itself: `python -m medray.cli.ray_node head|worker`.

slurm/medray.sbatch starts it as a step on every node. Ray's files are in a private folder that is removed when the step
ends, and no signal but USR2 ends it: SLURM sends TERM to all steps of a job at once, and Ray must outlive the driver, which
still saves a checkpoint. Ray blocks those signals too, as a mask is inherited.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from itertools import islice
from pathlib import Path

from medray import storage
from medray.cli.cluster import OBJECT_STORE_BYTES
from medray.cli.session_folder import SessionFolder
from medray.errors import MedrayError, RunFailedError

END = signal.SIGUSR2
BLOCKED = {END, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
# Below the range that Linux gives to outgoing connections. Each job has four in a row: two jobs may share a node.
FIRST_PORT, LAST_PORT, PORTS = 20_000, 30_000, 4
STARTS = 5  # of the head, on other ports each
STARTED = b"Ray runtime started"
LOOK_SECONDS = 0.5
SHOWN_LINES = 15  # of what Ray said, when it has ended by itself


def main(argv: list[str] | None = None) -> int:
    """Runs until USR2 (0) or until Ray ends by itself (1)."""
    parser = argparse.ArgumentParser(description="Runs one node of Ray until USR2.")
    parser.add_argument("--cpus", type=int, required=True)
    roles = parser.add_subparsers(dest="role", required=True)
    head = roles.add_parser("head")
    head.add_argument("address", type=Path, help="file that gets IP:PORT when the head has started")
    roles.add_parser("worker", help="joins RAY_ADDRESS")
    asked = parser.parse_args(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    os.umask(0o077)
    _adopt_orphans()
    offered = size(asked.cpus, os.environ)
    try:
        if asked.role == "worker":
            return 0 if _run([*_worker(os.environ.pop("RAY_ADDRESS")), *offered]) is End.ASKED else 1
        return _head(offered, asked.address)
    except MedrayError as error:
        print(f"medray: {error}", file=sys.stderr)
        return error.exit_code


class End(Enum):
    """How Ray came to its end: asked for by USR2, by itself while it started, or by itself later."""

    ASKED, NOT_STARTED, LATER = range(3)


def _head(offered: list[str], file: Path) -> int:
    """Runs the head, on other ports where somebody takes one between the look at them and Ray's start."""
    ip = own_address()
    for ports in islice(free_ports(int(os.environ.get("SLURM_JOB_ID", "0"))), STARTS):
        port, client, agent, metrics = ports
        options = [
            "--head",
            f"--node-ip-address={ip}",
            f"--port={port}",
            f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}",
            "--include-dashboard=false",
        ]
        end = _run([*options, *offered], lambda: storage.write(file, f"{ip}:{port}"))  # noqa: B023  # called in it
        if end is End.ASKED:
            return 0
        if end is End.LATER or all(map(_is_free, ports)):
            return 1
        print(f"medray: another process has taken one of the ports {port} to {metrics}", file=sys.stderr)
    raise RunFailedError(f"no {PORTS} ports in a row between {FIRST_PORT} and {LAST_PORT} stay free")


def _worker(address: str) -> list[str]:
    host, _, port = address.rpartition(":")
    return [
        f"--address={address}",
        f"--node-ip-address={_address_towards(host)}",
        f"--dashboard-agent-listen-port={int(port) + 2}",
        f"--metrics-export-port={int(port) + 3}",
    ]


def size(cpus: int, environ: Mapping[str, str]) -> list[str]:
    """Options of `ray start` for what SLURM gave to the job on this node, which may be less than the machine has."""
    gpus = environ.get("SLURM_GPUS_ON_NODE") or environ.get("MEDRAY_GPUS") or "0"
    options = [
        f"--num-cpus={cpus}",
        f"--num-gpus={gpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    memory = int(environ.get("SLURM_MEM_PER_NODE") or 0) * 1024**2 - OBJECT_STORE_BYTES
    return [*options, f"--memory={memory}"] if memory > 0 else options


def free_ports(job: int) -> Iterator[list[int]]:
    """Groups of four ports in a row that nobody listens on: first the job's own, then others in an order of its own."""
    groups = list(range((LAST_PORT - FIRST_PORT) // PORTS))
    own = groups.pop(job % len(groups))
    random.Random(job).shuffle(groups)
    for group in (own, *groups):
        first = FIRST_PORT + PORTS * group
        ports = list(range(first, first + PORTS))
        if all(map(_is_free, ports)):
            yield ports


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that only TIME_WAIT holds is free
        try:
            sock.bind(("", port))
        except OSError:
            return False
        return True


def own_address() -> str:
    """The IPv4 address under which others know this node: that of its SLURM name, else of the way to the outside."""
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None, socket.AF_INET)}
    except OSError:
        found = set()
    outside = sorted(
        address for address in found if not address.startswith("127.")
    )  # Debian: 127.0.1.1 is the own name
    return (
        outside[0] if outside else _address_towards("192.0.2.1")
    )  # of no machine: a route is all that is asked for


def _address_towards(host: str) -> str:
    """The address of the interface that leads to `host`; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((host, 9))
        except OSError:
            raise RunFailedError(f"{socket.gethostname()} has no route to {host}") from None
        return str(sock.getsockname()[0])


def _run(options: list[str], started: Callable[[], None] = lambda: None) -> End:
    """Runs `ray start` in a private folder. started: called when it says that it has."""
    folder = SessionFolder()
    said = Path(folder.ray).parent / "ray-start"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    try:
        with said.open("wb") as log:
            ray = subprocess.Popen(
                [*command, f"--temp-dir={folder.ray}", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            return _watch(ray, said, started)
        finally:
            ray.kill()
            ray.wait()
            _kill_children()
    finally:
        folder.remove()


def _adopt_orphans() -> None:
    """Makes this process the parent of all whose parents end below it, so that `_kill_children` finds them."""
    set_child_subreaper = 36  # linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def _kill_children() -> None:
    """Kills what Ray's processes have started, and what becomes an orphan by that; SLURM may not find them."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while found := children.read_text().split():
        for child in found:
            os.kill(int(child), signal.SIGKILL)  # none is another's: they stay ours until the wait
        for child in found:
            os.waitpid(int(child), 0)


def _watch(ray: subprocess.Popen[bytes], said: Path, started: Callable[[], None]) -> End:
    began, end = time.monotonic(), End.NOT_STARTED
    while ray.poll() is None:
        if end is End.NOT_STARTED and STARTED in said.read_bytes():
            end = End.LATER
            print(
                f"medray: Ray on {socket.gethostname()} has started in {time.monotonic() - began:.0f} s",
                file=sys.stderr,
            )
            started()
        if signal.sigtimedwait({END}, LOOK_SECONDS):
            return End.ASKED
    lines = said.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
    print("\n".join([f"medray: Ray on {socket.gethostname()} has ended by itself:", *lines]), file=sys.stderr)
    return end


if __name__ == "__main__":
    sys.exit(main())
