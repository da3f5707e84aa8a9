"""The process that runs the checks of `medray doctor`: python -m medray.launch.doctor.probe.

It reads a Question as JSON from standard input, and writes one Finding per line as JSON as soon as it is known, then
`{"end": true}`. It is separate from the command so that the command can abandon a check that cannot be ended, such as a
call to a dead disk or a library that blocks Python.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from medray.launch.doctor.finding import Finding, Question, examine
from medray.launch.doctor.machine import ALONE as MACHINE_ALONE
from medray.launch.doctor.machine import MACHINE
from medray.launch.doctor.places import ALONE, DRIVER, LOAD_SECONDS, ON_NODES, asked, ready


def main() -> None:
    """Read a Question from standard input, run the checks, and write the findings to standard output."""
    given = json.load(sys.stdin)
    question = Question(**{**given, "models": tuple(given["models"])})
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keep output of libraries apart from the findings

    def emit(one: Finding) -> None:
        out.write(json.dumps(one.as_json()) + "\n")
        out.flush()

    if question.address:
        from medray.launch.doctor.cluster import cluster

        cluster(question, emit)
    else:
        here = socket.gethostname()
        ready(question, LOAD_SECONDS)
        checks = {**MACHINE, **MACHINE_ALONE, **asked(question, {**ALONE, **ON_NODES, **DRIVER})}
        examine(checks, question, lambda one: emit(one.on(here)))
    out.write('{"end": true}\n')
    out.flush()
    os._exit(0)  # do not wait for checks that hang


if __name__ == "__main__":
    main()
