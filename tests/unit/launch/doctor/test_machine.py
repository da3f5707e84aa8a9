"""Each check of one machine in its states, under real conditions: small disks, low limits, taken ports, other versions."""

from __future__ import annotations

import json
import os
import platform
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medray.launch.doctor import machine
from medray.launch.doctor.compare import different_clocks, different_versions
from medray.launch.doctor.finding import Finding, Question, examine, ok, reason
from medray.launch.doctor.network import Source, reach

ALONE, NODE = Question(), Question(address="10.0.0.1:6379")
SECRET = "s3cr3t-t0ken"


def failed(one: Finding) -> str:
    assert one.state == "fail", one
    assert one.fix
    return one.detail


def warned(one: Finding) -> str:
    assert one.state == "warn", one
    assert one.fix
    return one.detail


def fine(one: Finding) -> str:
    assert one.state == "ok", one
    assert not one.fix
    return one.detail


def test_an_unknown_host_name_is_reported() -> None:
    with pytest.raises(socket.gaierror) as caught:
        socket.create_connection(("no host has spaces", 1), 5)
    assert reason(caught.value).startswith("the name ")
    assert reason(socket.gaierror(socket.EAI_NONAME, SECRET)) == "the name of the host is unknown"


def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fine(machine.python(ALONE)).startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    monkeypatch.setattr(machine, "PYTHONS", ((2, 7),))
    assert "medray runs on 3.11 and 3.12" in failed(machine.python(ALONE))


def install(folder: Path, name: str, version: str) -> None:
    """Write the metadata that pip writes for a package."""
    (folder / f"{name}-{version}.dist-info").mkdir()
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "medray 0." in fine(machine.packages(ALONE))
    install(tmp_path, "peft", "0.1.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "peft 0.1.0 is not in" in warned(machine.packages(ALONE))
    monkeypatch.setattr(machine, "PACKAGES", (*machine.PACKAGES, "medray-of-no-index"))
    assert failed(machine.packages(ALONE)) == "not installed: medray-of-no-index"


def test_ray_authentication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert "a cluster that medray starts itself always requires a token" in warned(
        machine.ray_authentication(ALONE)
    )
    assert "is not set" in warned(machine.ray_authentication(NODE))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "run code" in warned(machine.ray_authentication(NODE))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    assert "cannot be read (No such file" in failed(machine.ray_authentication(NODE))
    (token := tmp_path / "token").write_text(SECRET)
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert "other users may read" in warned(machine.ray_authentication(NODE))
    token.chmod(0o600)
    told = [fine(machine.ray_authentication(NODE))]
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    told.append(fine(machine.ray_authentication(NODE)))
    assert all(SECRET not in one and str(tmp_path) not in one for one in told)


def test_gpu_that_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's program tells of a GPU; this torch has none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        assert fine(machine.gpu(ALONE)) == "no GPU"
        assert "Ray offers 2 GPUs, but the machine has none" in failed(machine.gpu(Question(ray_gpus=2.0)))
    (program := tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '550.54, NVIDIA H200'\n")
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    detail = failed(machine.gpu(ALONE))
    assert "is built for CPUs" in detail or "driver 550.54" in detail


SMALL = """
import json, sys
from medray.launch.doctor import machine, storage
from medray.launch.doctor.finding import Question
tiny, small, fixed = sys.argv[1:]
found = [machine.shared_memory(Question(ray_gpus=gpus), folder) for folder, gpus in ((tiny, 0), (tiny, 2.0), (small, 0))]
found += machine.disk(Question(ray_folder="/dev/shm", storage=f"{tiny}/runs/deep"))
found += [storage.storage(Question(storage=folder)) for folder in (f"{small}/runs/deep", fixed)]
with open(f"{tiny}/filler", "wb") as filler:
    try:
        while True: filler.write(bytes(1 << 20))
    except OSError: pass
found += [storage.storage(Question(storage=tiny))]
import os
print(json.dumps([one.as_json() for one in found] + [{"left": os.listdir(small)}]))
"""


def test_small_full_and_read_only_disks(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("tiny", "small", "fixed")]
    for folder in folders:
        folder.mkdir()
    mounts = " && ".join(
        f"mount -t tmpfs -o {options} tmpfs {folder}"
        for folder, options in zip(folders, ("size=64m", "size=512m", "size=64m,ro"), strict=True)
    )
    command = f"{mounts} && exec '{sys.executable}' -c '{SMALL}' {' '.join(map(str, folders))}"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    *rows, left = json.loads(done.stdout)
    tiny, tiny_gpus, small, _, disk, writable, fixed, full = (Finding(**row) for row in rows)
    assert "Ray keeps its objects on the disk" in warned(tiny)
    assert "NCCL fails" in failed(tiny_gpus)
    assert "512 MiB" in warned(small)
    assert "64 MiB free of 64 MiB for run.storage" in failed(disk)
    assert "written, read back, renamed and locked" in fine(writable)
    assert left == {"left": []}, "what was made for the check is still there"
    assert "Read-only file system" in failed(fixed)
    assert "No space left on device" in failed(full)


def test_shared_memory_and_disk_with_room() -> None:
    assert "/dev/shm has" in machine.shared_memory(ALONE).detail
    assert "there is no /dev/none" in fine(machine.shared_memory(ALONE, "/dev/none"))
    (found,) = machine.disk(ALONE)
    assert "for temporary files" in found.detail


@contextmanager
def limit(files: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_open_files() -> None:
    with limit(512):
        assert failed(machine.open_files(NODE)).startswith("a process may open 512 at most")
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert machine.open_files(ALONE).detail.startswith(str(min(hard, 65536)))  # a driver raises it
    with limit(4096):
        assert warned(machine.open_files(NODE)).startswith("a process may open 4096 at most")
    if hard >= machine.ENOUGH_FILES:
        with limit(machine.ENOUGH_FILES):
            fine(machine.open_files(NODE))


def test_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(machine, "PORTS", {port: "--port"})
        found = machine.ports(ALONE)
        assert warned(found).startswith(f"taken: {port}")
        assert "ray start --head --port=" in found.fix
    assert "free for a Ray head" in fine(machine.ports(ALONE))


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert " free of " in machine.memory(ALONE).detail
    monkeypatch.setattr(machine, "RAY_MEMORY_SHARE", 1.0)
    monkeypatch.setattr(machine, "SPARE_MEMORY", 1 << 60)
    assert "two small workers" in warned(machine.memory(ALONE))
    monkeypatch.setattr(machine, "RAY_MEMORY_SHARE", 0.0)
    assert "Ray ends workers" in failed(machine.memory(ALONE))


def test_a_check_that_hangs_is_named_and_holds_up_no_other(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def hangs(question: Question) -> Finding:
        return ok("hangs", (tmp_path / "pipe").read_text())

    def breaks(question: Question) -> Finding:
        raise OSError(f"https://user:{SECRET}@host refused")

    checks = {"hangs": hangs, "breaks": breaks, "works": lambda question: ok("works", "done")}
    hung, broken, works = examine(checks, Question(seconds=0.5))
    assert failed(hung) == "the check got no answer within 0.5 s"
    assert failed(broken) == "this check could not be completed: OSError"
    assert fine(works) == "done"
    with (tmp_path / "pipe").open("w"):  # lets the thread go
        pass


def test_versions_that_differ() -> None:
    here, refused = {"medray": "1.0", "ray": "2.60.0", "numpy": "2.1"}, ("medray", "ray", "peft")
    python = {"python": platform.python_version()}
    (same,) = different_versions({"n1": {**python, **here}}, here, refused)
    assert fine(same) == "the same 4 versions on all nodes and on this machine"
    nodes = {
        "n1": {**python, **here},
        "n2": {**python, **here, "ray": "2.59.0", "peft": "0.2"},
        "n3": {**python, **here, "numpy": "2.2"},
        "n4": {**python, "ray": "2.60.0", "numpy": "2.1"},
        "n5": {**here, "python": "3.12.0"},
        "n6": {**python, **here, "ray": "2.60.0+cpu"},
    }
    other, free, absent, older, build = different_versions(nodes, here, refused)
    assert failed(other).startswith(
        "ray 2.59.0 (here 2.60.0), peft 0.2 (here absent): a run does not start on"
    )
    assert [one.node for one in (other, free, absent, older)] == ["n2", "n3", "n4", "n5"]
    assert "numpy 2.2 (here 2.1)" in warned(free)
    assert "not installed" in warned(absent)
    assert "medray launch job" in absent.fix
    assert failed(older).startswith("python 3.12.0")
    assert "ray 2.60.0+cpu" in warned(build)


def test_clocks_that_differ() -> None:
    (same,) = different_clocks({"n1": (0.5, 0.1), "n2": (-2.5, 1.0)})  # what cannot be told from none is none
    fine(same)
    later, wrong, silent = different_clocks({"n1": (-7.0, 0.1), "n2": (4000.0, 0.1), "n3": None})
    assert warned(later).startswith("7.0 s behind")
    assert failed(wrong).startswith("4000.0 s ahead of")
    assert failed(silent) == "the node did not send its time"
    assert (later.node, wrong.node, silent.node) == ("n1", "n2", "n3")


def test_links() -> None:
    source = Source("127.0.0.1")
    (fast,) = reach([("n2", "127.0.0.1", source.port)], 10.0)
    assert fine(fast) == "this node reaches 1 other node on any port"
    source.close()
    with socket.create_server(("127.0.0.1", 0)) as slow:

        def serve() -> None:
            for _ in range(3):
                client, _address = slow.accept()
                with client:
                    client.sendall(b"x" * 1000)

        thread = threading.Thread(target=serve)
        thread.start()
        peers = [("n2", "127.0.0.1", source.port), ("n3", "127.0.0.1", slow.getsockname()[1])]
        closed, late = reach(peers, 10.0)
        thread.join()
    assert failed(closed).startswith("this node cannot reach n2")
    assert warned(late).startswith("n3 is slow from this node")
