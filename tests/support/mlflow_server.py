"""A real MLflow server over SQLite, in processes that a test kills, halts and starts again."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil


class MlflowServer:
    """A server. uri: the same for all starts."""

    def __init__(self, folder: Path) -> None:
        self._port = _port()
        self._folder = folder
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None

    def start(self, database: str = "mlflow.db") -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self._port}"]
        command += [f"--backend-store-uri=sqlite:///{self._folder / database}", "--workers=1"]
        command += [f"--default-artifact-root={self._folder / 'artifacts'}"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        end = time.monotonic() + 240
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < end, "the MLflow server does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        for process in self._family():
            process.kill()
        if self._process is not None:
            self._process.wait()
        self._process = None

    def halt(self) -> None:
        """Halt the server: it still accepts connections, but answers none."""
        for process in self._family():
            process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        for process in self._family():
            process.send_signal(signal.SIGCONT)

    def unread(self) -> int:
        """Bytes that were sent to it and that it has not read: above 0, somebody waits for it."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        mine = [row for row in rows if int(row[1].rpartition(":")[2], 16) == self._port and row[3] == "01"]
        return sum(int(row[4].rpartition(":")[2], 16) for row in mine)

    def _family(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _port() -> int:
    """Free, and not of the range from which the system takes ports for others while the server is down."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) != 0:
                return port
