"""The examination as the command line sees it: start the process that runs the checks, read its findings, end it."""

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

START_SECONDS = 60.0  # limit for Python's start and imports, which may be on a slow disk
# Limit for all parts of the examination of a cluster, one after the other (cluster.py); each part has its own limit too.
CLUSTER_SECONDS = 180.0


def examined(question: Question) -> list[Finding]:
    """Run all checks and return their findings.

    A problem is a finding, not an exception, and so is a missing answer.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "medray.launch.doctor.probe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdin
    with contextlib.suppress(OSError), process.stdin:  # the process may have ended already
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
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # a dead disk may hold the process: do not wait for it
            process.wait(1)
    if not complete:
        detail = f"the checks did not end in time ({len(findings)} findings arrived)"
        findings.append(
            fail(
                "doctor",
                detail,
                "run medray doctor again; if this repeats, the check after the last one above hangs",
            )
        )
    return findings


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put("")


def worst(findings: Iterable[Finding]) -> str:
    """Return the worst state of the findings: fail, warn or ok."""
    states = {one.state for one in findings}
    return next(state for state in (FAIL, WARN, OK) if state in states or state == OK)
