"""Run one node of the Ray cluster of a SLURM job: `python -m medray.cli.ray_node head|worker`.

slurm/medray.sbatch starts this module as a step on every node. Ray's files are in a private folder that is removed
when the step ends. Only the signal USR2 ends the step: SLURM sends TERM to all steps of a job at once, and Ray must
outlive the driver, which still saves a checkpoint. Ray inherits the signal mask, so it blocks those signals too.
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
# A range below the ports that Linux gives to outgoing connections. A job uses four in a row: two jobs may share a node.
FIRST_PORT, LAST_PORT, PORTS = 20_000, 30_000, 4
STARTS = 5  # attempts to start the head, each on other ports
STARTED = b"Ray runtime started"
LOOK_SECONDS = 0.5  # interval between two checks of Ray's process
SHOWN_LINES = 15  # lines of Ray's output that are shown when it has ended by itself


def main(argv: list[str] | None = None) -> int:
    """Run Ray on this node. Return 0 after USR2 has arrived, or 1 if Ray has ended by itself."""
    parser = argparse.ArgumentParser(description="Run one node of Ray until USR2 arrives.")
    parser.add_argument("--cpus", type=int, required=True)
    roles = parser.add_subparsers(dest="role", required=True)
    head = roles.add_parser("head")
    head.add_argument("address", type=Path, help="file to write IP:PORT to when the head has started")
    roles.add_parser("worker", help="join the cluster at RAY_ADDRESS")
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
    """The reason why Ray ended: USR2 asked for it, or Ray ended by itself, while it started or later."""

    ASKED, NOT_STARTED, LATER = range(3)


def _head(offered: list[str], file: Path) -> int:
    """Run the head. If another process takes one of the ports before Ray starts, try other ports."""
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
        print(
            f"medray: another process has taken one of the ports {port} to {metrics}; trying other ports",
            file=sys.stderr,
        )
    raise RunFailedError(
        f"Ray's head could not start: in all {STARTS} attempts, other processes took one of its {PORTS} consecutive ports "
        f"between {FIRST_PORT} and {LAST_PORT}. Fix: submit the job again, or to another node"
    )


def _worker(address: str) -> list[str]:
    host, _, port = address.rpartition(":")
    return [
        f"--address={address}",
        f"--node-ip-address={_address_towards(host)}",
        f"--dashboard-agent-listen-port={int(port) + 2}",
        f"--metrics-export-port={int(port) + 3}",
    ]


def size(cpus: int, environ: Mapping[str, str]) -> list[str]:
    """Return the options of `ray start` that limit Ray to the job's resources on this node."""
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
    """Yield groups of four free consecutive ports: the job's own group first, then others, shuffled by the job's id."""
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
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT counts as free
        try:
            sock.bind(("", port))
        except OSError:
            return False
        return True


def own_address() -> str:
    """Return the IPv4 address under which other nodes reach this one.

    This is the address of the node's SLURM name, else that of its route to the outside.
    """
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None, socket.AF_INET)}
    except OSError:
        found = set()
    outside = sorted(
        address for address in found if not address.startswith("127.")
    )  # on Debian the machine's own name resolves to 127.0.1.1
    return (
        outside[0] if outside else _address_towards("192.0.2.1")
    )  # a reserved address without a machine: only the route to it is looked up


def _address_towards(host: str) -> str:
    """Return the address of the network interface that leads to `host`. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((host, 9))
        except OSError:
            raise RunFailedError(
                f"{socket.gethostname()} has no network route to {host}. Fix: check the network of this node, or submit to "
                "another node"
            ) from None
        return str(sock.getsockname()[0])


def _run(options: list[str], started: Callable[[], None] = lambda: None) -> End:
    """Run `ray start` in a private folder. started: called when Ray reports that it has started."""
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
    """Make this process the parent of orphaned descendants, so that `_kill_children` finds them."""
    set_child_subreaper = 36  # linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def _kill_children() -> None:
    """Kill the processes that Ray's processes started, and their orphans in turn; SLURM may not find them."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while found := children.read_text().split():
        for child in found:
            os.kill(int(child), signal.SIGKILL)  # the id cannot be reused by another process before waitpid
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
