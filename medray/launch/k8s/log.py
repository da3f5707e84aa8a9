"""The log of a RayJob's submitter pod, which prints the driver's output.

The log is only shown to the user; whether the run has ended follows from the status of the job.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from medray.errors import printable

LONGEST_LINE = 20_000  # characters of a line that are shown
_MARK = re.compile(
    r"^medray: exit code (\d{1,3})$", re.MULTILINE
)  # written by run.sh of k8s/base/config.yaml
_FAILED = re.compile(r"failed with exit code (\d{1,3})")  # Ray's message about a job


def exit_code_in(text: str) -> int | None:
    """Return the last exit code of the run in a log or in Ray's message about a failed job; None if there is none."""
    found = _MARK.findall(text) or _FAILED.findall(text)
    return int(found[-1]) if found else None


class PodLog(threading.Thread):
    """A thread that passes the lines of the submitter pods to `show`, one pod after the other: each retry has its own
    pod.
    """

    def __init__(self, core: Any, namespace: str, job: str, show: Callable[[str], None]) -> None:
        super().__init__(name=f"log of {job}", daemon=True)
        self.exit_code: int | None = None
        self._core, self._namespace, self._job, self._show = core, namespace, job, show
        self._ended = threading.Event()
        self._lines: dict[str, int] = {}  # number of lines shown of each pod
        self._whole: set[str] = set()  # pods whose log is complete

    def run(self) -> None:
        while True:
            last_time = self._ended.is_set()
            try:
                pods = self._pods()
            except Exception:  # best effort: the status of the job decides
                pods = []
            for pod in pods:
                if pod.metadata.uid not in self._whole:
                    self._read(pod)
            if last_time:
                return
            self._ended.wait(2)

    def end(self) -> None:
        """Read the rest of the log after the job has ended. This takes at most 15 s."""
        self._ended.set()
        if self.is_alive():
            self.join(timeout=15)

    def _pods(self) -> list[Any]:
        """Return the submitter's pods, oldest first."""
        found = self._core.list_namespaced_pod(
            self._namespace, label_selector=f"job-name={self._job}", _request_timeout=10
        ).items
        ours = [each for each in found if (each.metadata.labels or {}).get("job-name") == self._job]
        return sorted(ours, key=lambda pod: str(pod.metadata.creation_timestamp))

    def _read(self, pod: Any) -> None:
        uid, number = pod.metadata.uid, 0
        try:
            follow = not self._ended.is_set()
            response = self._core.read_namespaced_pod_log(
                pod.metadata.name,
                self._namespace,
                follow=follow,
                _preload_content=False,
                _request_timeout=(10, 300 if follow else 10),
            )
            rest = b""
            for part in response.stream(8192, decode_content=False):
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    number = self._line(uid, number, line)
            if rest:
                self._line(uid, number, rest)
            if (pod.status.phase if pod.status else "") in ("Succeeded", "Failed"):
                self._whole.add(uid)
        except (
            Exception
        ):  # the container has not started, or the connection broke; shown lines are not shown again
            return

    def _line(self, uid: str, number: int, line: bytes) -> int:
        number += 1
        if number > self._lines.get(uid, 0):
            self._lines[uid] = number
            text = line.decode("utf-8", "replace").rstrip("\r")
            code = exit_code_in(text)
            self.exit_code = self.exit_code if code is None else code
            self._show(printable(text[:LONGEST_LINE]))
        return number
