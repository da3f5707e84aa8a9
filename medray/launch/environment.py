"""Environment variables that a launched run gets: those that `launch.env` names, with secrets kept apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medray.config.loading.credentials import has_credentials, is_secret_name

PYTHONS = ((3, 11), (3, 12))  # requires-python of pyproject.toml
_KEY = re.compile(r"key$", re.IGNORECASE)
_USER = re.compile(r"[^\s@]@[^\s@]")  # also matches a proxy without a scheme: user:password@proxy:3128


@dataclass(frozen=True)
class Environment:
    """The environment variables of a launched run.

    plain: variables that may be written to a manifest or sent to a job server. secret: variables whose values must not
    be written to a file, a manifest or a command line.
    """

    plain: dict[str, str]
    secret: dict[str, str]


def allowed(names: Iterable[str], environ: Mapping[str, str]) -> Environment:
    """Return the variables of `environ` that `names` allows.

    A name that ends in * allows all variables with that prefix.
    """
    exact = {name for name in names if not name.endswith("*")}
    starts = tuple(name[:-1] for name in names if name.endswith("*"))
    found = {
        name: value
        for name, value in environ.items()
        if name in exact or (starts and name.startswith(starts))
    }
    secret = {name: value for name, value in found.items() if is_secret(name, value)}
    return Environment({name: value for name, value in found.items() if name not in secret}, secret)


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable may contain a password or a token, judging by its name and by the form of its value."""
    return is_secret_name(name) or bool(_KEY.search(name) or _USER.search(value)) or has_credentials(value)
