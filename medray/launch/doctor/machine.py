"""The checks that look at one machine, each a function from a Question to a Finding, or to a list of them.

To add one, write the function and name it in MACHINE; what asks something beyond the machine is in places.py. No finding
tells the value of an environment variable.
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
# What `ray start --head` takes unless told otherwise, and the option that tells it.
PORTS = {6379: "--port", 8265: "--dashboard-port", 10001: "--ray-client-server-port"}
DOCKER_SHM = 64 * MIB  # what a container gets unless it asks for more
ENOUGH_SHM = 1 * GIB
FEWEST_FILES, ENOUGH_FILES = 1024, 8192  # Ray recommends the second
RAY_DISK_SHARE = 0.95  # of a disk that is fuller than that Ray uses nothing more
RAY_MEMORY_SHARE = 0.95  # where less is free, Ray ends processes
SPARE_DISK, SPARE_MEMORY = 10 * GIB, 4 * GIB


def python(question: Question) -> Finding:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] in PYTHONS:
        return ok("python", detail)
    return fail("python", f"{detail}; medray runs on 3.11 and 3.12", "install Python 3.11 and medray in it")


def versions() -> dict[str, str]:
    """The version of each of PACKAGES; one that is absent, or a medray that cannot be imported, is left out."""
    import importlib.metadata as metadata

    found = {}
    with contextlib.suppress(Exception):
        import medray  # which may come from a package that was sent along, and was installed by nobody

        found["medray"] = str(medray.__version__)
    for name in PACKAGES[1:]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def packages(question: Question) -> Finding:
    found = versions()
    wanted = PACKAGES[1:] if question.address else PACKAGES  # of a cluster, `same versions` tells of medray
    if lacking := [name for name in wanted if name not in found]:
        return fail(
            "packages",
            f"not installed: {', '.join(lacking)}",
            "pip install medray, or make install in a checkout",
        )
    if outside := _outside(found):
        text = "; ".join(f"{name} {found[name]} is not in {wanted}" for name, wanted in outside.items())
        return warn(
            "packages", f"{text}: medray was not run with it", "install medray again, with its versions"
        )
    return ok("packages", ", ".join(f"{name} {found[name]}" for name in PACKAGES[:6] if name in found))


def _outside(found: Mapping[str, str]) -> dict[str, str]:
    """Packages whose version is not in the range that medray was run with."""
    import importlib.metadata as metadata

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("medray") or ()]
    except metadata.PackageNotFoundError:  # run from its source
        return {}
    return {
        one.name: str(one.specifier)
        for one in wanted
        if one.marker is None
        and one.name in found
        and not one.specifier.contains(found[one.name], prereleases=True)
    }


def ray_authentication(question: Question) -> Finding:
    name, way = "ray auth", "RAY_AUTH_MODE=token with RAY_AUTH_TOKEN_PATH, a file of mode 0600, on every node"
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode == "disabled":
        return warn(
            name,
            "RAY_AUTH_MODE is disabled: whoever reaches a port of the cluster can run code as its user",
            f"export {way}",
        )
    if mode != "token":
        own = "" if question.address else " (a cluster that medray starts itself is always closed)"
        return warn(
            name,
            f"RAY_AUTH_MODE is not set: `ray start` then opens the cluster to whoever reaches its ports{own}",
            f"export {way} before ray start",
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
        return fail(name, f"the token file of {called} cannot be read ({reason(error)})", f"export {way}")
    if shared:
        return warn(name, f"other users may read the token file of {called}", "chmod 600 on that file")
    return ok(name, f"by token, from the file of {called}")


def has_gpu() -> bool:
    """Whether there is a device of NVIDIA's, or its program: torch is not imported to find that there is none."""
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
                f"Ray offers {question.ray_gpus:g} GPUs, and there is none",
                "start Ray without --num-gpus",
            )
        return ok("gpu", "no GPU")
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    driver, names = smi or ("unknown", [])
    if torch.version.cuda is None and torch.version.hip is None:
        return fail(
            "gpu",
            f"{max(devices, len(names))} GPUs, and torch {torch.__version__} is built for CPUs",
            "install a CUDA build of torch: make install TORCH_INDEX=…, as README.md says",
        )
    if not seen:
        return fail(
            "gpu",
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use the GPUs; driver {driver}",
            "install a newer driver, or a torch for an older CUDA; in a container, pass the GPUs on (--gpus all)",
        )
    detail = f"{seen} × {torch.cuda.get_device_name(0)}, driver {driver}, CUDA {torch.version.cuda}"
    if not torch.distributed.is_nccl_available():
        return warn(
            "gpu", f"{detail}, without NCCL: several GPUs cannot train together", "install a torch with NCCL"
        )
    detail += f", NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    if question.ray_gpus is not None and question.ray_gpus < seen:
        return warn(
            "gpu", f"{detail}; Ray offers {question.ray_gpus:g} of them", f"start Ray with --num-gpus={seen}"
        )
    return ok("gpu", detail)


def _nvidia_smi() -> tuple[str, list[str]] | None:
    """(driver, names of the GPUs), or None where the program is absent or finds no GPU."""
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
    way = f"give it 30 % of the memory: docker run --shm-size=8g, or mount -o remount,size=8g {folder}"
    if min(whole, free) <= DOCKER_SHM:
        if question.ray_gpus or _devices():
            return fail(name, f"{detail}: NCCL fails between the GPUs of this node", way)
        return warn(name, f"{detail}: Ray keeps its objects on the disk instead, which is slow", way)
    if free < ENOUGH_SHM:
        return warn(name, f"{detail}: Ray may keep objects on the disk, which is slow", way)
    return ok(name, detail)


def open_files(question: Question) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Ray's driver raises the soft limit to the hard one; what a cluster's processes have they keep.
    limit = soft if question.address else max(soft, min(hard, 65536))
    way = "ulimit -n 65536 before ray start (or LimitNOFILE of the service, nofile in limits.conf)"
    if limit < FEWEST_FILES:
        return fail("open files", f"{limit} at most: Ray needs more", way)
    if limit < ENOUGH_FILES:
        return warn("open files", f"{limit} at most: with many workers, Ray's connections break", way)
    return ok("open files", f"{limit} at most")


def ports(question: Question) -> Finding:
    """Only on a machine without a cluster: on a node of one, Ray itself has them."""
    taken = [port for port in PORTS if not _is_free(port)]
    if not taken:
        return ok("ports", f"{', '.join(map(str, PORTS))} are free for a Ray head")
    options = " ".join(f"{PORTS[port]}=…" for port in taken)
    return warn(
        "ports",
        f"taken: {', '.join(map(str, taken))}: a second `ray start --head` fails here (medray train alone needs none of them)",
        f"ray start --head {options}, or check the cluster that is there: medray doctor --address=HOST:PORT",
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
    places = {"temporary files": question.ray_folder or os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()}
    if question.storage and "://" not in question.storage:
        places["run.storage"] = question.storage
    return [_disk(what, path) for what, path in places.items()]


def _disk(what: str, path: str) -> Finding:
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    whole, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    used = 1 - free / whole if whole else 0.0
    detail = f"{size(free)} free of {size(whole)} for {what}"
    if free < GIB or (what != "run.storage" and used > RAY_DISK_SHARE):
        why = f"{used:.0%} used; Ray stops at {RAY_DISK_SHARE:.0%}" if free >= GIB else "a run fills that"
        way = (
            "free space there"
            if what == "run.storage"
            else "free space, or a larger disk: RAY_TMPDIR, ray start --temp-dir"
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
        return ok("memory", "not known on this system")
    detail = f"{size(free)} free of {size(whole)}"
    if free < (1 - RAY_MEMORY_SHARE) * whole:
        return fail(
            "memory",
            f"{detail}: Ray ends workers when less than 5 % are free",
            "end other programs on that node, or give its container more memory",
        )
    if free < SPARE_MEMORY:
        return warn(
            "memory",
            f"{detail}: a run with two small workers takes some 3 GiB",
            "end other programs on that node",
        )
    return ok("memory", detail)


def _memory() -> tuple[int, int]:
    """(all, free) bytes of the machine, or of the control group where that has less; zeros where neither is known."""
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
ALONE: dict[str, Check] = {"ports": ports}  # where there is no cluster
