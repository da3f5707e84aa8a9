"""The checks of one machine. Each is a function from a Question to a Finding or a list of Findings.

To add a check, write the function and list it in MACHINE. Checks of services and folders are in `places.py`. No
finding contains the value of an environment variable.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from medray.launch.doctor.finding import CHECK_SECONDS, Check, Finding, Question, fail, ok, reason, size, warn
from medray.launch.environment import PYTHONS
from medray.plan.resources import SAME_VERSIONS

GIB, MIB = 1 << 30, 1 << 20
PACKAGES = (
    *SAME_VERSIONS,
    *("mlflow", "datasets", "safetensors", "tokenizers", "pydantic", "numpy"),
)
# The default ports of `ray start --head`, and the options that change them.
PORTS = {6379: "--port", 8265: "--dashboard-port", 10001: "--ray-client-server-port"}
DOCKER_SHM = 64 * MIB  # the default size in a container
ENOUGH_SHM = 1 * GIB
FEWEST_FILES, ENOUGH_FILES = 1024, 8192  # Ray recommends the second number
RAY_DISK_SHARE = 0.95  # Ray stops writing to a disk that is fuller than this
RAY_MEMORY_SHARE = 0.95  # Ray ends processes if more memory than this is in use
SPARE_DISK, SPARE_MEMORY = 10 * GIB, 4 * GIB


def python(question: Question) -> Finding:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] in PYTHONS:
        return ok("python", detail)
    return fail("python", f"{detail}; medray runs on 3.11 and 3.12", "install Python 3.11, and medray in it")


def versions() -> dict[str, str]:
    """Return the installed versions of PACKAGES. Packages that are absent or cannot be imported are left out."""
    import importlib.metadata as metadata

    found = {}
    with contextlib.suppress(Exception):
        import medray  # may be a package that was sent along with a job, without metadata of an installation

        found["medray"] = str(medray.__version__)
    for name in PACKAGES[1:]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def packages(question: Question) -> Finding:
    found = versions()
    wanted = PACKAGES[1:] if question.address else PACKAGES  # on a cluster, `same versions` checks medray
    if lacking := [name for name in wanted if name not in found]:
        return fail(
            "packages",
            f"not installed: {', '.join(lacking)}",
            "run `pip install medray`, or `make install` in a checkout",
        )
    if outside := _outside(found):
        text = "; ".join(f"{name} {found[name]} is not in {wanted}" for name, wanted in outside.items())
        return warn(
            "packages",
            f"{text}: medray is not tested with this version",
            "install medray again, with the versions that it requires",
        )
    return ok("packages", ", ".join(f"{name} {found[name]}" for name in PACKAGES[:6] if name in found))


def _outside(found: Mapping[str, str]) -> dict[str, str]:
    """Return the packages whose version is not in the range that medray requires, with that range."""
    import importlib.metadata as metadata

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("medray") or ()]
    except metadata.PackageNotFoundError:  # medray runs from its source
        return {}
    return {
        one.name: str(one.specifier)
        for one in wanted
        if one.marker is None
        and one.name in found
        and not one.specifier.contains(found[one.name], prereleases=True)
    }


def ray_authentication(question: Question) -> Finding:
    name, way = "ray auth", "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, a file of mode 0600, on every node"
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode == "disabled":
        return warn(
            name,
            "RAY_AUTH_MODE is disabled: anybody who reaches a port of the cluster can run code as its user",
            f"set {way}",
        )
    if mode != "token":
        own = "" if question.address else " (a cluster that medray starts itself always requires a token)"
        return warn(
            name,
            f"RAY_AUTH_MODE is not set: `ray start` then opens the cluster to anybody who reaches its ports{own}",
            f"set {way} before `ray start`",
        )
    if os.environ.get("RAY_AUTH_TOKEN"):
        return ok(name, "by token, from RAY_AUTH_TOKEN")
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file, called = (
        Path(given or "~/.ray/auth_token").expanduser(),
        "RAY_AUTH_TOKEN_PATH" if given else "~/.ray/auth_token",
    )
    try:
        shared = file.stat().st_mode & 0o077
        file.read_bytes()
    except OSError as error:
        return fail(name, f"the token file of {called} cannot be read ({reason(error)})", f"set {way}")
    if shared:
        return warn(name, f"other users may read the token file of {called}", "run `chmod 600` on that file")
    return ok(name, f"by token, from the file of {called}")


def has_gpu() -> bool:
    """Return whether this machine has NVIDIA devices or nvidia-smi. torch is not imported, because that takes seconds."""
    return bool(_devices()) or shutil.which("nvidia-smi") is not None


def _devices() -> int:
    return sum(1 for _ in Path("/dev").glob("nvidia[0-9]*"))


def gpu(question: Question) -> Finding:
    smi = _nvidia_smi()
    devices = _devices()
    if smi is None and not devices:
        if question.ray_gpus:
            return fail(
                "gpu",
                f"Ray offers {question.ray_gpus:g} GPUs, but the machine has none",
                "start Ray without --num-gpus",
            )
        return ok("gpu", "no GPU")
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    driver, names = smi or ("unknown", [])
    if torch.version.cuda is None and torch.version.hip is None:
        return fail(
            "gpu",
            f"the machine has {max(devices, len(names))} GPUs, but torch {torch.__version__} is built for CPUs",
            "install a CUDA build of torch: make install TORCH_INDEX=…, as README.md says",
        )
    if not seen:
        return fail(
            "gpu",
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use the GPUs; driver {driver}",
            "install a newer driver, or a torch for an older CUDA; in a container, pass the GPUs to it (--gpus all)",
        )
    detail = f"{seen} × {torch.cuda.get_device_name(0)}, driver {driver}, CUDA {torch.version.cuda}"
    if not torch.distributed.is_nccl_available():
        return warn(
            "gpu", f"{detail}, without NCCL: several GPUs cannot train together", "install a torch with NCCL"
        )
    detail += f", NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    if question.ray_gpus is not None and question.ray_gpus < seen:
        return warn(
            "gpu",
            f"{detail}; Ray offers only {question.ray_gpus:g} of them",
            f"start Ray with --num-gpus={seen}",
        )
    return ok("gpu", detail)


def _nvidia_smi() -> tuple[str, list[str]] | None:
    """Return (driver, names of the GPUs), or None if nvidia-smi is absent or finds no GPU."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS / 2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.partition(", ") for line in done.stdout.splitlines() if ", " in line]
    return (rows[0][0], [row[2] for row in rows]) if done.returncode == 0 and rows else None


def shared_memory(question: Question, folder: str = "/dev/shm") -> Finding:
    name = "shared memory"
    try:
        found = os.statvfs(folder)
    except OSError:
        return ok(name, f"there is no {folder} on this system")
    whole, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    detail = f"{folder} has {size(whole)}, {size(free)} free"
    way = (
        f"give it 30 % of the memory, with `docker run --shm-size=8g` or `mount -o remount,size=8g {folder}`"
    )
    if min(whole, free) <= DOCKER_SHM:
        if question.ray_gpus or _devices():
            return fail(name, f"{detail}, which is too small: NCCL fails between the GPUs of this node", way)
        return warn(name, f"{detail}: Ray keeps its objects on the disk instead, which is slow", way)
    if free < ENOUGH_SHM:
        return warn(name, f"{detail}: Ray may keep objects on the disk, which is slow", way)
    return ok(name, detail)


def open_files(question: Question) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Ray's driver raises the soft limit to the hard one; processes of a running cluster keep their limits.
    limit = soft if question.address else max(soft, min(hard, 65536))
    way = "run `ulimit -n 65536` before `ray start` (or set LimitNOFILE of the service, or nofile in limits.conf)"
    if limit < FEWEST_FILES:
        return fail("open files", f"a process may open {limit} at most, and Ray needs more", way)
    if limit < ENOUGH_FILES:
        return warn(
            "open files",
            f"a process may open {limit} at most: with many workers, Ray's connections fail",
            way,
        )
    return ok("open files", f"{limit} at most")


def ports(question: Question) -> Finding:
    """Check whether the ports of a Ray head are free.

    This check runs only on a machine without a cluster, because a cluster's head uses these ports.
    """
    taken = [port for port in PORTS if not _is_free(port)]
    if not taken:
        return ok("ports", f"{', '.join(map(str, PORTS))} are free for a Ray head")
    options = " ".join(f"{PORTS[port]}=…" for port in taken)
    return warn(
        "ports",
        f"taken: {', '.join(map(str, taken))}: a second `ray start --head` fails here (medray train needs none of them)",
        f"use `ray start --head {options}`, or check the running cluster with `medray doctor --address=HOST:PORT`",
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def disk(question: Question) -> list[Finding]:
    folders = {
        "temporary files": question.ray_folder or os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    }
    if question.storage and "://" not in question.storage:
        folders["run.storage"] = question.storage
    return [_disk(what, path) for what, path in folders.items()]


def _disk(what: str, path: str) -> Finding:
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    whole, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    used = 1 - free / whole if whole else 0.0
    detail = f"{size(free)} free of {size(whole)} for {what}"
    if free < GIB or (what != "run.storage" and used > RAY_DISK_SHARE):
        why = f"{used:.0%} used; Ray stops at {RAY_DISK_SHARE:.0%}" if free >= GIB else "a run needs more"
        way = (
            "free space on this disk"
            if what == "run.storage"
            else "free space, or use a larger disk with RAY_TMPDIR or `ray start --temp-dir`"
        )
        return fail("disk", f"{detail}: {why}", way)
    if free < SPARE_DISK:
        return warn(
            "disk",
            f"{detail}: checkpoints of a large model need more",
            "free space, or keep fewer checkpoints (train.keep_checkpoints)",
        )
    return ok("disk", detail)


def memory(question: Question) -> Finding:
    whole, free = _memory()
    if not whole:
        return ok("memory", "the free memory of this system is unknown")
    detail = f"{size(free)} free of {size(whole)}"
    if free < (1 - RAY_MEMORY_SHARE) * whole:
        return fail(
            "memory",
            f"{detail}: Ray ends workers if less than 5 % is free",
            "end other programs on the node, or give its container more memory",
        )
    if free < SPARE_MEMORY:
        return warn(
            "memory",
            f"{detail}: a run with two small workers needs about 3 GiB",
            "end other programs on the node",
        )
    return ok("memory", detail)


def _memory() -> tuple[int, int]:
    """Return (total, free) bytes of the machine, or of its control group if that has less; zeros if unknown."""
    try:
        rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        found = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 1}
        whole, free = found["MemTotal"], found["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return 0, 0
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            most, used = int(Path(limit).read_text()), int(Path(usage).read_text())
        except (OSError, ValueError):  # absent, or "max"
            continue
        if most < whole:
            whole, free = most, min(free, most - used)
    return whole, max(free, 0)


MACHINE: dict[str, Check] = {
    "python": python,
    "packages": packages,
    "ray auth": ray_authentication,
    "gpu": gpu,
    "shared memory": shared_memory,
    "open files": open_files,
    "disk": disk,
    "memory": memory,
}
ALONE: dict[str, Check] = {"ports": ports}  # checks of a machine without a cluster
