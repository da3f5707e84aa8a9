"""A command with a Ray cluster of its own, and what its processes do meanwhile: ports, priorities, modes of folders."""

from __future__ import annotations

import stat
import subprocess
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from commands import WORKER

LOOK_SECONDS = 0.5


@dataclass
class Seen:
    """The facts that were seen. listening: addresses, by command line of the process. nice: priorities of the workers.

    modes: of the folders that the command made in the one that it was given for Ray.
    """

    listening: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    nice: set[int] = field(default_factory=set)
    modes: set[int] = field(default_factory=set)

    def look(self, driver: int, folder: Path) -> None:
        self.modes |= {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()}
        with suppress(psutil.Error):
            for process in psutil.Process(driver).children(recursive=True):
                with suppress(psutil.Error):
                    name = " ".join(process.cmdline()) or process.name()
                    found = [one for one in process.net_connections("inet") if one.status == "LISTEN"]
                    self.listening[name] |= {one.laddr.ip for one in found}
                    self.nice |= {process.nice()} if name.startswith(WORKER) else set()

    def assert_private(self, *more: str) -> None:
        """Assert that other users of the machine reach no port and no file. more: processes that must have listened."""
        for part in ("raylet", "gcs_server", *more):
            assert any(part in name and addresses for name, addresses in self.listening.items()), part
        assert set().union(*self.listening.values()) <= {"127.0.0.1", "::ffff:127.0.0.1"}
        assert self.modes == {0o700}


def run_watched(command: list[str], environment: dict[str, str], cwd: Path, folder: Path) -> tuple[str, Seen]:
    """Return (standard output and then standard error, what was seen). folder: for Ray's sockets, path of at most 25 bytes."""
    driver = subprocess.Popen(
        command,
        env=environment | {"RAY_TMPDIR": str(folder)},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = Seen()
    while True:
        with suppress(subprocess.TimeoutExpired):
            said = "".join(driver.communicate(timeout=LOOK_SECONDS))
            break
        seen.look(driver.pid, folder)
    assert driver.returncode == 0, said
    return said, seen
