"""The examination as a whole, for the command: a process that looks, and its end."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict

from medray.launch.doctor.finding import FAIL, OK, WARN, Finding, Question, fail

START_SECONDS = 60.0  # of a Python on a slow disk, and its imports
# All parts of an examination of a cluster one after another (cluster.py), each of which has an end of its own.
CLUSTER_SECONDS = 180.0


def examined(question: Question) -> list[Finding]:
    """All findings. Raises nothing for what it finds; what does not answer is a finding too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "medray.launch.doctor.probe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdin
    with contextlib.suppress(OSError), process.stdin:  # one that has ended already
        process.stdin.write(json.dumps(asdict(question)))
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    end = time.monotonic() + START_SECONDS + (CLUSTER_SECONDS if question.address else question.seconds)
    findings: list[Finding] = []
    complete = False
    try:
        while not complete and (line := lines.get(timeout=max(0.0, end - time.monotonic()))):
            row = json.loads(line)
            complete = "end" in row
            if not complete:
                findings.append(Finding(**row))
    except queue.Empty:
        pass
    finally:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # where a dead disk holds it, it is left behind
            process.wait(1)
    if not complete:
        detail = f"the examination did not end ({len(findings)} findings came)"
        findings.append(
            fail("doctor", detail, "run it again; if it stays so, look which check is the last above")
        )
    return findings


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put("")


def worst(findings: Iterable[Finding]) -> str:
    """fail, warn or ok."""
    states = {one.state for one in findings}
    return next(state for state in (FAIL, WARN, OK) if state in states or state == OK)
