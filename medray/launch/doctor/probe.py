"""The process in which `medray doctor` looks: python -m medray.launch.doctor.probe, a Question as JSON on its input.

Apart from the command, so that a check which nothing can end (a call of a dead disk, a library that holds Python) is left
behind with it. Writes one JSON object a line, a Finding each, as they come, and `{"end": true}` last.
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
    """Answer the question on standard input."""
    given = json.load(sys.stdin)
    question = Question(**{**given, "models": tuple(given["models"])})
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no finding

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
    os._exit(0)  # a check that hangs holds up no exit


if __name__ == "__main__":
    main()
