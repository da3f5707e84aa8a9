"""The name of a run's RayJob in Kubernetes."""

from __future__ import annotations

import hashlib
import re

LONGEST = 47  # characters of a RayJob's name: the operator adds six for the cluster's name, and labels have at most 63
RULE = (
    f"a name in Kubernetes has at most {LONGEST} lower-case letters, digits and '-', and begins with a letter; if run.name "
    "does not, it is changed and six digits of its SHA-256 are added, so that names stay different"
)


def rayjob_name(run_name: str) -> str:
    """Return the DNS-1035 name of the RayJob of a run. It depends only on run.name.

    Letters become lower case, other characters become '-', and the first character is a letter. If the result differs from
    run.name, `-` and six hexadecimal digits of the SHA-256 of run.name follow, so that `Run_1` and `run-1` are two jobs.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", run_name.lower()).strip("-")
    if not re.match(r"[a-z]", plain):
        plain = f"run-{plain}".rstrip("-")
    if plain == run_name and len(plain) <= LONGEST:
        return plain
    digest = hashlib.sha256(run_name.encode()).hexdigest()[:6]
    return f"{plain[: LONGEST - 7].rstrip('-')}-{digest}"
