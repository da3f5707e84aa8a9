"""The cluster that the command starts for itself, on a machine that others use too."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from commands import WORKER, command, write_config


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_it_listens_on_loopback_alone_and_leaves_no_file(short: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        command(write_config(tmp_path, "private", 6), "cluster.workers=2"),
        env=environment | {"RAY_TMPDIR": str(short)},
        stderr=subprocess.PIPE,
        text=True,
    )
    heard: dict[str, set[str]] = {}  # by process: the addresses that it listened on
    nice: set[int] = set()
    modes: set[int] = set()
    while True:
        with suppress(subprocess.TimeoutExpired):
            _, said = driver.communicate(timeout=0.2)
            break
        modes |= {stat.S_IMODE(folder.stat().st_mode) for folder in short.iterdir()}
        with suppress(psutil.Error):
            for process in psutil.Process(driver.pid).children(recursive=True):
                with suppress(psutil.Error):
                    name = " ".join(process.cmdline()) or process.name()
                    listening = [one for one in process.net_connections("inet") if one.status == "LISTEN"]
                    heard.setdefault(name, set()).update(one.laddr.ip for one in listening)
                    nice |= {process.nice()} if name.startswith(WORKER) else set()
    assert driver.returncode == 0, said
    assert nice == {0}
    for part in ("raylet", "gcs_server", WORKER):
        assert any(part in name and addresses for name, addresses in heard.items()), part
    assert {address for addresses in heard.values() for address in addresses} <= {
        "127.0.0.1",
        "::ffff:127.0.0.1",
    }
    assert modes == {0o700}
    assert list(short.iterdir()) == []
