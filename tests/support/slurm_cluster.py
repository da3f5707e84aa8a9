"""A real SLURM on this machine: slurmctld and two slurmd, each in namespaces of its own, with munge between them.

    with slurm_cluster() as slurm:
        job = slurm.run("sbatch", "--parsable", "--wrap=hostname").stdout.strip()
        slurm.ended(job)

Needs root. namespaces.py tells what a node has of its own; files are shared, as on a cluster with a shared file system.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import namespaces
from namespaces import Node, network

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ADDRESSES = {"c0": "10.77.0.1", "n1": "10.77.0.11", "n2": "10.77.0.12"}
NODES = ("n1", "n2")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE"}

SLURM_CONF = """
ClusterName=lab
SlurmctldHost=c0(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobRequeue=1
KillWait=30
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=60
InactiveLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n1 NodeAddr=10.77.0.11 CPUs=8 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeAddr=10.77.0.12 CPUs=8 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def absent() -> str | None:
    """Return the reason why this machine cannot have such a SLURM, or None."""
    if os.geteuid() != 0:
        return "SLURM in namespaces needs root"
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=PATH)]:
        return f"{', '.join(missing)} not installed (Debian: apt install slurm-wlm munge)"
    if reason := namespaces.missing():
        return reason
    made = ["unshare", "--mount", "bash", "-ec", "mount -t tmpfs none /dev/shm; mknod /dev/shm/null c 1 3"]
    tried = subprocess.run(made, capture_output=True, text=True, check=False)
    return f"no devices here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Slurm:
    """A SLURM. folder: SLURM's own files. nodes: namespaces of each host."""

    folder: Path
    nodes: Mapping[str, Node]

    def command(self, host: str, *words: str) -> list[str]:
        """Return the command that runs `words` on `host` (c0, n1 or n2)."""
        return self.nodes[host].command(words)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    def run(
        self, *words: str, host: str = "c0", check: bool = True, seconds: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end: sbatch, scontrol, scancel, `medray launch slurm`."""
        done = subprocess.run(
            self.command(host, *words),
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert not check or done.returncode == 0, f"{shlex.join(words)}: {done.stdout}{done.stderr}"
        return done

    def job(self, number: str) -> dict[str, str]:
        """Return SLURM's facts about a job: JobState, ExitCode, Restarts, ..."""
        said = self.run("scontrol", "show", "job", number, "-o").stdout
        return {word.partition("=")[0]: word.partition("=")[2] for word in said.split()}

    def until(self, number: str, states: set[str], seconds: float = 240) -> dict[str, str]:
        """The job as soon as it is in one of `states`."""
        limit = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < limit, f"job {number} stays {job['JobState']}"
            time.sleep(0.5)
        return job

    def ended(self, number: str, seconds: float = 240) -> dict[str, str]:
        """The job when it has ended and is not in the queue again."""
        return self.until(number, ENDED, seconds)

    def start_again(self, number: str) -> None:
        """Starts a job that is in the queue again soon, not after SLURM's two minutes.

        Not at once: slurmd refuses what was submitted in the second in which it ended the job.
        """
        self.until(number, {"PENDING"})
        self.run("scontrol", "update", f"JobId={number}", "StartTime=now+3seconds")

    def pids(self, host: str, words: str) -> list[int]:
        """Processes of `host` (as this machine counts them) whose command line contains `words`."""
        own = os.readlink(f"/proc/{self.nodes[host].pid}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == own:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if words in line:
                        found.append(int(entry.name))
        return found


@contextlib.contextmanager
def slurm_cluster() -> Iterator[Slurm]:
    """A SLURM whose nodes n1 and n2 are idle. It has ended, with all jobs and files, when the context is left."""
    folder = Path(tempfile.mkdtemp(prefix="medray-slurm-"))  # a short path: sockets are below it
    processes: list[subprocess.Popen[bytes]] = []
    try:
        _write_files(folder)
        # Not the environment of the test: a daemon hands its own to what it starts.
        clean = ["env", "-i", f"PATH={PATH}", f"SLURM_CONF={folder}/slurm.conf", "LANG=C.UTF-8"]
        daemons = {"c0": "slurmctld -D -c", **{node: f"slurmd -D -N {node}" for node in NODES}}
        with network(folder, ADDRESSES, shm_bytes=1 << 30) as hosts:
            nodes = {host.name: host for host in hosts}
            # Its socket is a file, which all hosts see.
            processes.append(nodes["c0"].start([*clean, *_munged(folder)], folder / "log" / "munged.out"))
            for name, daemon in daemons.items():
                words = [*clean, *daemon.split()]
                processes.append(nodes[name].start(words, folder / "log" / f"{name}.out"))
            slurm = Slurm(folder, nodes)

            def idle() -> bool:
                for process in processes:
                    assert process.poll() is None, _logs(folder)
                said = slurm.run("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D", check=False)
                return said.stdout.strip() == "2"

            _wait(idle, "the nodes are not idle", lambda: _logs(folder))
            yield slurm
    finally:
        for process in processes:
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _write_files(folder: Path) -> None:
    for name in ("state", "spool/n1", "spool/n2", "log", "munge", "devices"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "munge").chmod(0o755)
    (folder / "slurm.conf").write_text(SLURM_CONF.format(folder=folder))
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    (folder / "cgroup.conf").write_text(
        f"CgroupPlugin=cgroup/{'v2' if unified else 'v1'}\nCgroupAutomount=no\n"
    )
    lines = []
    for node in NODES:
        for number in range(2):  # SLURM wants character devices: these are further /dev/null
            os.mknod(folder / "devices" / f"{node}-{number}", 0o666 | 0o020000, os.makedev(1, 3))
        lines.append(f"NodeName={node} Name=gpu File={folder}/devices/{node}-[0-1]\n")
    (folder / "gres.conf").write_text("".join(lines))
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    (folder / "munge" / "key").chmod(0o600)


def _munged(folder: Path) -> list[str]:
    files = {
        "key-file": "key",
        "socket": "socket",
        "pid-file": "pid",
        "log-file": "log",
        "seed-file": "seed",
    }
    return [
        "munged",
        "--foreground",
        "--force",
        *(f"--{name}={folder}/munge/{file}" for name, file in files.items()),
    ]


def _wait(condition: Callable[[], Any], what: str, more: Callable[[], str] = str, seconds: float = 60) -> Any:
    limit = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > limit:
            raise TimeoutError(f"{what} {more()}")
        time.sleep(0.05)
    return found


def _logs(folder: Path) -> str:
    return "\n".join(
        f"{file.name}: {file.read_text()[-1500:]}" for file in sorted((folder / "log").iterdir())
    )
