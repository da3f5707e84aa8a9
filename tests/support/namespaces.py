"""Several nodes on one machine: each with an own address, host name, processes and /dev/shm, and a link that can be cut.

The nodes are Linux namespaces, joined by a bridge. None of them has a name in the system, so that everything is gone
with the processes that hold it: whoever ends this process, the kernel ends those. All nodes see the one file system,
which plays the shared storage; LOCAL is a folder of each node's own.

    with network(tmp_path) as (n1, n2):
        ray = n1.start(["ray", "start", "--head", "--block", f"--node-ip-address={n1.address}", …], log)
        with n2.cut_off():
            …

Needs root and the programs of iproute2 and util-linux; `missing()` tells what lacks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LOCAL = "/mnt"  # on a disk in memory, as /dev/shm is
PROGRAMS = ("bash", "ip", "mount", "nsenter", "setpriv", "unshare")
SECONDS = 20  # any one command of these
TWO = {"n1": "10.77.0.11", "n2": "10.77.0.12"}
# The first process of a node: bash, which reaps what the node's processes leave. The link is there before it runs.
FIRST = """
hostname "$1"; mount --bind "$2/hosts" /etc/hosts; mount --bind "$2/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o size="$3" tmpfs /dev/shm; mount -t tmpfs -o size=16g,mode=1777 tmpfs "$4"
ip link set lo up; touch "$2/$1.ready"
trap '' TERM INT HUP USR1; sleep infinity & wait
"""


def missing() -> str | None:
    """Return the reason why this machine cannot have such nodes, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(absent)} (iproute2, util-linux) not installed"
    trial = (
        "mount -t tmpfs tmpfs /mnt && ip link add br0 type bridge && ip link add v0 type veth peer name v1"
    )
    done = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", trial],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    return "this kernel or container permits no namespaces, bridge or veth pair" if done.returncode else None


@dataclass(frozen=True)
class Node:
    """A node. pid: of its first process, as seen by this machine. switch: pid of a process in the bridge's namespace."""

    name: str
    address: str
    pid: int
    switch: int

    def command(self, words: Sequence[str]) -> list[str]:
        """The same command, run in this node."""
        return [
            *("nsenter", f"--target={self.pid}", "--net", "--uts", "--ipc", "--mount", "--pid"),
            f"--wdns={os.getcwd()}",
            *("setpriv", "--pdeathsig=KILL", *words),
        ]

    def start(
        self, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process in this node. It ends with its parent, an nsenter, which hands on no signal: use `inner`."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                self.command(words),
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def run(
        self, words: Sequence[str], environment: Mapping[str, str] | None = None, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in this node to its end."""
        return subprocess.run(
            self.command(words),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Inside, the node's cable is unplugged: what it sends, and what is sent to it, gets lost without a word."""
        self.set_link("down")
        try:
            yield
        finally:
            self.set_link("up")

    def set_link(self, state: str) -> None:
        """Unplug the node's cable ("down"), or plug it in again ("up")."""
        _at(self.switch, "ip", "link", "set", self.name, state)

    @contextlib.contextmanager
    def slow(self, kilobits: int) -> Iterator[None]:
        """Inside, the node sends and gets at most `kilobits` a second: what is more waits, for 20 s at most.

        By tc's tbf, which more kernels have than netem; the queue of a link that is too narrow is what delays.
        """
        limit = max(kilobits * 1000 // 8 * 20, 100_000)  # bytes that wait
        shape = ["tbf", "rate", f"{kilobits}kbit", "burst", "1600", "limit", str(limit)]
        ends = ((self.switch, self.name), (self.pid, "eth0"))
        for pid, device in ends:
            _at(pid, "tc", "qdisc", "add", "dev", device, "root", *shape)
        try:
            yield
        finally:
            for pid, device in ends:
                _at(pid, "tc", "qdisc", "del", "dev", device, "root")


def inner(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that `Node.start` has started in the node: signals go to it."""
    limit = time.monotonic() + SECONDS
    while not (found := psutil.Process(process.pid).children()):
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < limit, "it did not start"
        time.sleep(0.01)
    return found[0]


@contextlib.contextmanager
def network(
    folder: Path, addresses: Mapping[str, str] = TWO, *, shm_bytes: int = 2 << 30
) -> Iterator[list[Node]]:
    """Nodes that reach each other under the names and addresses of `addresses`, and nothing else.

    folder: for their hosts file. shm_bytes: size of each /dev/shm.
    """
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    (folder / "resolv.conf").write_text("")
    holders: list[subprocess.Popen[bytes]] = []
    try:
        switch = _hold(holders, ["sleep", "infinity"], "--net")
        _until(lambda: _apart(switch), "the bridge's namespace")
        _at(switch, "ip", "link", "add", "br0", "type", "bridge")
        _at(switch, "ip", "link", "set", "br0", "up")
        yield [
            _node(holders, folder, switch, name, address, shm_bytes) for name, address in addresses.items()
        ]
    finally:
        for holder in reversed(holders):
            holder.kill()  # its child, and with it all of the node, the kernel ends
            holder.wait()


def _node(
    holders: list[subprocess.Popen[bytes]], folder: Path, switch: int, name: str, address: str, shm: int
) -> Node:
    ready = folder / f"{name}.ready"
    ready.unlink(missing_ok=True)
    spaces = ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    holder = _hold(holders, ["bash", "-c", FIRST, "node", name, str(folder), str(shm), LOCAL], *spaces)
    _until(ready.exists, f"node {name}")
    first = psutil.Process(holder).children()[0].pid
    peer = ("type", "veth", "peer", "name", "eth0", "netns", str(first))
    _at(switch, "ip", "link", "add", name, *peer)
    _at(switch, "ip", "link", "set", name, "master", "br0", "up")
    _at(first, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
    _at(first, "ip", "link", "set", "eth0", "up")
    return Node(name, address, first, switch)


def _hold(holders: list[subprocess.Popen[bytes]], words: list[str], *spaces: str) -> int:
    holder = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", "unshare", *spaces, "--", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    holders.append(holder)
    return holder.pid


def _apart(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def _at(pid: int, *words: str) -> None:
    """Runs a command in the network of a process."""
    done = subprocess.run(
        ["nsenter", f"--target={pid}", "--net", *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def _until(ready: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < limit, f"never came: {what}"
        time.sleep(0.01)
