"""Names in Kubernetes: what a RayJob is called that runs a config."""

from __future__ import annotations

import hashlib
import re

LONGEST = 47  # characters of a RayJob's name: the operator adds six for the cluster's, and labels end at 63
RULE = (
    f"a name in Kubernetes has at most {LONGEST} small letters, digits and '-', and begins with a letter; where run.name "
    "had to be changed or cut, six digits of its SHA-256 tell it from others"
)


def rayjob_name(run_name: str) -> str:
    """The DNS-1035 name of the RayJob of a run, always the same for the same run.name.

    Small letters, other characters as '-', a letter first; `-` and six hexadecimal digits of the SHA-256 of run.name
    follow where this is not run.name itself, so that `Run_1` and `run-1` are two jobs.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", run_name.lower()).strip("-")
    if not re.match(r"[a-z]", plain):
        plain = f"run-{plain}".rstrip("-")
    if plain == run_name and len(plain) <= LONGEST:
        return plain
    digest = hashlib.sha256(run_name.encode()).hexdigest()[:6]
    return f"{plain[: LONGEST - 7].rstrip('-')}-{digest}"
